package supervisor

import (
	"io"
	"net"
	"sync"
	"time"
)

// ttrpc has no flow control: a stream whose handler does not receive for a second is broken (ttrpc v1.2.10,
// streamHandler.data). So a call's frames are taken from it at once and wait in an inbox, and while much
// waits there the connection itself is not read: the kernel holds the caller back.
const (
	// highWater is how many bytes may wait before a connection is no longer read.
	highWater = 4 * 64 << 10
	// frameOverhead is what a waiting frame costs beside its payload, so that empty ones count too.
	frameOverhead = 128
	// hangUpCheck is how often a connection that is not read is asked whether its other end still lives.
	hangUpCheck = 200 * time.Millisecond
)

// pacedConn is a connection that is not read while too much of it waits, and whose frames are checked before
// ttrpc sees them.
type pacedConn struct {
	net.Conn
	frames frameCheck

	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	waiting int
	changed chan struct{} // closed and replaced when waiting shrinks
}

func newPacedConn(conn net.Conn) *pacedConn {
	return &pacedConn{Conn: conn, closed: make(chan struct{}), changed: make(chan struct{})}
}

// Read implements net.Conn. Every failure reads as the end: it is the only one after which ttrpc ends the
// calls of a connection at once.
func (c *pacedConn) Read(p []byte) (int, error) {
	if !c.awaitRoom() {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	if err != nil || c.frames.check(p[:n]) != nil {
		return 0, io.EOF
	}
	return n, nil
}

// awaitRoom returns true when there is room for more, false when the connection has ended meanwhile.
func (c *pacedConn) awaitRoom() bool {
	for {
		c.mu.Lock()
		full, changed := c.waiting >= highWater, c.changed
		c.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-changed:
		case <-c.closed:
			return false
		case <-time.After(hangUpCheck):
			if hungUp(c.Conn) {
				return false
			}
		}
	}
}

// add counts bytes that wait from now on (positive) or no longer (negative).
func (c *pacedConn) add(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting += bytes
	if bytes < 0 {
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// Close implements net.Conn.
func (c *pacedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
