package agent

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/frame"
)

// relay is a connection within a connection: its bytes travel in frames, so that it can end without the other's end.
// Both sides use it during a warm-up. One goroutine may read while others write and close.
type relay struct {
	conn DeadlineConn
	buf  []byte
	left []byte // of the frame that was read last
	over bool   // the other side has ended

	mu     sync.Mutex
	closed bool
}

func newRelay(conn DeadlineConn) *relay {
	return &relay{conn: conn, buf: make([]byte, frame.MaxPayload)}
}

// Read returns io.EOF when the other side has closed the relay; nothing of what follows on the connection was read then.
func (r *relay) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if r.over {
			return 0, io.EOF
		}
		typ, payload, err := frame.Read(r.conn, r.buf)
		if err != nil {
			return 0, err
		}
		if typ != frameRelay {
			return 0, fmt.Errorf("%w: a frame of type %d in a warm-up", frame.ErrProtocol, typ)
		}
		r.left, r.over = payload, len(payload) == 0
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, io.ErrClosedPipe
	}
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+frame.MaxPayload)]
		if err := frame.Write(r.conn, frameRelay, part); err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), nil
}

// Close tells the other side that nothing follows; what it still says can be read.
func (r *relay) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return frame.Write(r.conn, frameRelay, nil)
}

func (r *relay) SetDeadline(t time.Time) error { return r.conn.SetDeadline(t) }
