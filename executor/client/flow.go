package client

import (
	"errors"
	"io"
	"net"
	"sync"
)

// ttrpc has no flow control: its receive loop waits one second for a stream's reader and then breaks the
// stream (ttrpc v1.2.10, stream.receive). An output that stalls for longer, a pager for instance, would so
// end the call. Here every frame is taken from ttrpc at once and queued, and once much is queued the
// connection itself is no longer read: the kernel's socket buffer fills and holds the service back.

const (
	// highWater is how many bytes may be queued before the connection is no longer read.
	highWater = 4 * 64 << 10
	// frameOverhead is what a queued frame costs beside its payload, so that empty frames count too.
	frameOverhead = 128
)

// meter counts the bytes that were received and not yet consumed.
type meter struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   int
	closed  bool
}

func newMeter() *meter {
	m := &meter{}
	m.changed = sync.NewCond(&m.mu)
	return m
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += n
	m.changed.Broadcast()
}

// waitBelow blocks while limit or more bytes are pending; it returns false once the meter is closed.
func (m *meter) waitBelow(limit int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.bytes >= limit && !m.closed {
		m.changed.Wait()
	}
	return !m.closed
}

func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.changed.Broadcast()
}

// meteredConn is a connection that is not read while too much of it is pending. After the meter was closed it
// reads as ended.
type meteredConn struct {
	net.Conn
	pending *meter
}

func (c *meteredConn) Read(p []byte) (int, error) {
	if !c.pending.waitBelow(highWater) {
		return 0, io.EOF
	}
	return c.Conn.Read(p)
}

// queue holds the messages of one stream between ttrpc's receive loop and a consumer of any speed.
type queue[T any] struct {
	pending *meter
	size    func(T) int

	mu      sync.Mutex
	changed *sync.Cond
	items   []T
	err     error
}

// newQueue starts to take messages from recv until it fails; size is a message's payload in bytes. last tells
// that nothing worth receiving follows a message: the connection is then not read any further, because
// ttrpc logs to stderr what it receives for a stream that has ended.
func newQueue[T any](pending *meter, recv func() (T, error), size func(T) int, last func(T) bool) *queue[T] {
	q := &queue[T]{pending: pending, size: size}
	q.changed = sync.NewCond(&q.mu)
	go q.fill(recv, last)
	return q
}

func (q *queue[T]) fill(recv func() (T, error), last func(T) bool) {
	for {
		item, err := recv()
		if err == nil {
			q.pending.add(q.size(item) + frameOverhead)
		}
		if err == nil && last(item) {
			q.pending.close()
			q.push(item, nil)
			err = io.EOF
		}
		q.push(item, err)
		if err != nil {
			return
		}
	}
}

func (q *queue[T]) push(item T, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.err = err
	} else {
		q.items = append(q.items, item)
	}
	q.changed.Signal()
}

// each calls consume with every message, in order; a message counts as pending until consume returned. It
// returns nil when the stream ended, else the stream's or consume's error.
func (q *queue[T]) each(consume func(T) error) error {
	for {
		item, err := q.pop()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = consume(item)
		q.pending.add(-q.size(item) - frameOverhead)
		if err != nil {
			return err
		}
	}
}

func (q *queue[T]) pop() (item T, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && q.err == nil {
		q.changed.Wait()
	}
	if len(q.items) == 0 {
		return item, q.err
	}
	item = q.items[0]
	q.items = q.items[1:]
	return item, nil
}
