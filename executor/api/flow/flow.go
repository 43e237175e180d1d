// Package flow gives the callers of the host, driver and commands, what ttrpc lacks: flow control. ttrpc's
// receive loop waits one second for a stream's reader and then breaks the stream (v1.2.10, stream.receive), so a
// consumer that stalls for longer, because GitLab is slow or a pager waits for a key, would fail its call. Here
// every message is taken from ttrpc at once, and once much is waiting the connection itself is no longer read:
// the socket's buffer fills and holds the sender back.
//
// It is a leaf: the driver pays for its imports at each start.
package flow

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
)

// highWater is how many bytes may wait for their consumer before the connection is no longer read. A resumable
// call never comes so far, because the executor sends at most api.Window ahead: its connection is always read, and
// the end of the host is noticed at once, however slow the consumer is.
const highWater = api.Window + api.MaxChunk

// Conn is a connection that is read only while little of what it brought is waiting.
type Conn struct {
	net.Conn
	room    *room
	stopped bool // under room.mu
}

// room is what waits, of one connection or of several that follow each other.
type room struct {
	mu      sync.Mutex
	changed *sync.Cond
	waiting int  // bytes
	over    bool // nothing more is worth reading
}

// NewConn returns conn with flow control. Everything that is received over it must go through a Queue.
func NewConn(conn net.Conn) *Conn {
	r := &room{}
	r.changed = sync.NewCond(&r.mu)
	return &Conn{Conn: conn, room: r}
}

// Next returns conn as the one that takes c's place: what it brings goes through the same Queue.
func (c *Conn) Next(conn net.Conn) *Conn { return &Conn{Conn: conn, room: c.room} }

// Read reads from the connection as soon as there is room for more. Once reading was stopped it returns io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	if !c.awaitRoom() {
		return 0, io.EOF
	}
	return c.Conn.Read(p)
}

func (c *Conn) awaitRoom() bool {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	for c.room.waiting >= highWater && !c.stopped && !c.room.over {
		c.room.changed.Wait()
	}
	return !c.stopped && !c.room.over
}

// Stop ends all reading, that which waits for room included. Who closes the connection calls it before.
func (c *Conn) Stop() {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	c.stopped = true
	c.room.changed.Broadcast()
}

// add counts bytes that wait from now on, or, when negative, no longer.
func (r *room) add(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting += bytes
	r.changed.Broadcast()
}

// end ends the reading of every connection of the room.
func (r *room) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.changed.Broadcast()
}

// Queue holds the messages of one stream between ttrpc's receive loop and a consumer of any speed.
type Queue[T any] struct {
	room *room
	cost func(T) int

	mu      sync.Mutex
	changed *sync.Cond
	items   []T
	err     error
}

// Frames receives what the host sends within a Call over conn and those that follow it. Nothing worth receiving
// comes after the result, so the connection is then not read any further: ttrpc would log to stderr what comes for a stream that has ended.
func Frames(conn *Conn, recv func() (*api.ServerFrame, error)) *Queue[*api.ServerFrame] {
	return newQueue(conn, recv, api.FrameCost,
		func(f *api.ServerFrame) bool { return f.GetResult() != nil })
}

// Events receives the events of a followed log.
func Events(conn *Conn, recv func() (*api.Event, error)) *Queue[*api.Event] {
	return newQueue(conn, recv,
		func(e *api.Event) int { return len(e.GetJson()) + eventOverhead },
		func(*api.Event) bool { return false })
}

// eventOverhead is what a waiting event costs beside its text.
const eventOverhead = 128

// newQueue starts to take messages from recv until it fails. cost is what a waiting message counts, in bytes;
// last tells that no message follows.
func newQueue[T any](conn *Conn, recv func() (T, error), cost func(T) int, last func(T) bool) *Queue[T] {
	q := &Queue[T]{room: conn.room, cost: cost}
	q.changed = sync.NewCond(&q.mu)
	go q.fill(recv, last)
	return q
}

func (q *Queue[T]) fill(recv func() (T, error), last func(T) bool) {
	for {
		item, err := recv()
		if err == nil {
			q.room.add(q.cost(item))
		}
		if err == nil && last(item) {
			q.room.end()
			q.push(item, nil)
			err = io.EOF
		}
		q.push(item, err)
		if err != nil {
			return
		}
	}
}

func (q *Queue[T]) push(item T, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.err = err
	} else {
		q.items = append(q.items, item)
	}
	q.changed.Signal()
}

// Each calls consume with every message, in order; a message counts as waiting until consume has returned. It
// returns nil when the stream ended, else the stream's or consume's error.
func (q *Queue[T]) Each(consume func(T) error) error {
	for {
		item, err := q.pop()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = consume(item)
		q.room.add(-q.cost(item))
		if err != nil {
			return err
		}
	}
}

func (q *Queue[T]) pop() (item T, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && q.err == nil {
		q.changed.Wait()
	}
	if len(q.items) == 0 {
		return item, q.err
	}
	var none T
	item, q.items[0] = q.items[0], none // so that the consumed ones are not kept
	q.items = q.items[1:]
	return item, nil
}
