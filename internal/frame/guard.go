package frame

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
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
)

// Guard stands between a peer and our yamux session and lets through only what an honest peer of ours sends. Yamux
// trusts its peer in two ways that a hostile one could use: every ping starts a goroutine that waits for the connection
// to become writable, and every stream that it opens holds a window of memory.
type Guard struct {
	io.ReadWriteCloser
	r     *bufio.Reader
	opens bool
	// left counts the bytes of the current frame, header included, that were not read yet.
	left int64
}

// NewGuard returns conn with its reading side guarded. opens says that the peer is the one who opens streams: callers of
// the executor do, agents do not.
func NewGuard(conn io.ReadWriteCloser, opens bool) *Guard {
	return &Guard{ReadWriteCloser: conn, r: bufio.NewReaderSize(conn, MaxPayload), opens: opens}
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
	case flags&yamuxSYN != 0 && (!g.opens || typ == yamuxPing):
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
