package frame

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Yamux's wire format: version, type, flags (2 bytes), stream id (4), length (4); see spec.md in its repository.
const (
	yamuxHeader = 12

	yamuxData         = 0
	yamuxWindowUpdate = 1
	yamuxPing         = 2
	yamuxGoAway       = 3

	yamuxSYN = 1
	yamuxACK = 2
	yamuxFIN = 4
	yamuxRST = 8
)

// Guard stands between a peer and our yamux session and lets through only what an honest peer of ours sends. Yamux
// trusts its peer in two ways that a hostile one could use: every ping starts a goroutine that waits for the connection
// to become writable, and every stream that it opens holds a window of memory, until the peer ends it.
type Guard struct {
	io.ReadWriteCloser
	r       *bufio.Reader
	streams int
	// left counts the bytes of the current frame, header included, that were not read yet.
	left int64

	mu   sync.Mutex
	open map[uint32]chan struct{} // the peer's streams that it has not ended
}

// NewGuard returns conn with its reading side guarded. streams is how many streams the peer may have open at once:
// callers of the executor open some, agents none.
func NewGuard(conn io.ReadWriteCloser, streams int) *Guard {
	return &Guard{
		ReadWriteCloser: conn, r: bufio.NewReaderSize(conn, MaxPayload), streams: streams, open: map[uint32]chan struct{}{},
	}
}

// Ended returns a channel that is closed once the peer has ended its stream. Yamux tells that only to a reader who has
// read all that came before.
func (g *Guard) Ended(stream uint32) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ended := g.open[stream]; ended != nil {
		return ended
	}
	ended := make(chan struct{})
	close(ended)
	return ended
}

// Read reads within one frame that was checked before.
func (g *Guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if g.left == 0 {
		header, err := g.r.Peek(yamuxHeader)
		if err != nil {
			return 0, err
		}
		if g.left, err = g.check(header); err != nil {
			return 0, err
		}
		if err := g.note(header); err != nil {
			return 0, err
		}
	}
	n, err := g.r.Read(p[:min(int64(len(p)), g.left)])
	g.left -= int64(n)
	return n, err
}

// check returns the length of the frame with this header, or what is wrong with it.
func (g *Guard) check(header []byte) (int64, error) {
	typ := header[1]
	flags := binary.BigEndian.Uint16(header[2:])
	length := binary.BigEndian.Uint32(header[8:])
	switch {
	case flags&yamuxSYN != 0 && (g.streams == 0 || typ == yamuxPing):
		return 0, fmt.Errorf("%w: the peer opened a stream or sent a ping", ErrProtocol)
	case typ == yamuxData && length > Window:
		return 0, fmt.Errorf("%w: the peer sent %d bytes into a window of %d", ErrProtocol, length, Window)
	case typ == yamuxData:
		return yamuxHeader + int64(length), nil
	case typ == yamuxWindowUpdate, typ == yamuxGoAway, typ == yamuxPing && flags == yamuxACK:
		return yamuxHeader, nil
	default:
		return 0, fmt.Errorf("%w: unknown yamux frame, type %d, flags %#x", ErrProtocol, typ, flags)
	}
}

// note keeps account of the peer's streams.
func (g *Guard) note(header []byte) error {
	flags, stream := binary.BigEndian.Uint16(header[2:]), binary.BigEndian.Uint32(header[4:])
	if flags&(yamuxSYN|yamuxFIN|yamuxRST) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if flags&yamuxSYN != 0 && g.open[stream] == nil { // yamux ends the session of one that is opened twice
		if len(g.open) >= g.streams {
			return fmt.Errorf("%w: the peer opened more than %d streams", ErrProtocol, g.streams)
		}
		g.open[stream] = make(chan struct{})
	}
	if ended := g.open[stream]; ended != nil && flags&(yamuxFIN|yamuxRST) != 0 {
		close(ended)
		delete(g.open, stream)
	}
	return nil
}
