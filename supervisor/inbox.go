package supervisor

import (
	"context"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
)

// inbox holds a call's frames between ttrpc's receiving, which must never wait, and their passing on. What
// waits in it counts against its connection, so it stays small.
type inbox struct {
	conn *pacedConn

	mu      sync.Mutex
	frames  []*api.ClientFrame
	taken   int   // bytes of the frame that next returned last
	err     error // why no more frames come
	closed  bool
	changed chan struct{}
}

// receive fills an inbox from recv until that fails. A caller that breaks off, rather than ends its side,
// cancels the call.
func receive(recv func() (*api.ClientFrame, error), conn *pacedConn, cancel context.CancelCauseFunc) *inbox {
	box := &inbox{conn: conn, changed: make(chan struct{}, 1)}
	go func() {
		for {
			frame, err := recv()
			if err != nil && !isEnd(err) {
				cancel(errDriverGone)
			}
			if !box.put(frame, err) {
				return
			}
		}
	}()
	return box
}

// put adds a frame, or the error after the last; false when nothing more is wanted.
func (b *inbox) put(frame *api.ClientFrame, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if err != nil {
		b.err = err
	} else {
		b.frames = append(b.frames, frame)
		b.conn.add(cost(frame))
	}
	select {
	case b.changed <- struct{}{}:
	default:
	}
	return err == nil
}

// next returns the oldest frame; the one before it counts as passed on. After the last one it returns the
// error that receiving ended with, io.EOF when the caller ended its side.
func (b *inbox) next(ctx context.Context) (*api.ClientFrame, error) {
	for {
		b.mu.Lock()
		b.conn.add(-b.taken)
		b.taken = 0
		if len(b.frames) > 0 {
			frame := b.frames[0]
			b.frames = b.frames[1:]
			b.taken = cost(frame)
			b.mu.Unlock()
			return frame, nil
		}
		err := b.err
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-b.changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// close forgets what still waits: the call is over.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	waiting := b.taken
	for _, frame := range b.frames {
		waiting += cost(frame)
	}
	b.conn.add(-waiting)
	b.frames, b.taken = nil, 0
}

func cost(frame *api.ClientFrame) int { return len(frame.GetData()) + frameOverhead }
