package driver

import (
	"io"
	"net"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// ttrpc has no flow control of its own: its receive loop waits for a stream's reader for one second and then
// breaks the stream (v1.2.10, stream.receive). A runner that does not read its pipe for longer, because GitLab
// is slow for instance, would so fail the job. Here every frame is taken from ttrpc at once, and once much is
// waiting the connection itself is no longer read: the socket's buffer fills and holds the host back.
const (
	// highWater is how many bytes may wait to be written before the connection is no longer read.
	highWater = 4 * api.MaxChunk
	// frameOverhead is what a waiting frame costs beside its payload, so that small ones count too.
	frameOverhead = 128
)

// gate is a connection that is read only while little is waiting to be written.
type gate struct {
	net.Conn
	mu      sync.Mutex
	changed *sync.Cond
	waiting int
	ended   bool
}

func newGate(conn net.Conn) *gate {
	g := &gate{Conn: conn}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Read reads from the connection, when the gate lets it.
func (g *gate) Read(p []byte) (int, error) {
	g.mu.Lock()
	for g.waiting >= highWater && !g.ended {
		g.changed.Wait()
	}
	g.mu.Unlock()
	return g.Conn.Read(p)
}

func (g *gate) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting += n
	g.changed.Broadcast()
}

// open lets every Read pass, for a connection that is about to be closed.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
	g.changed.Broadcast()
}

// flow holds a call's frames between ttrpc's receive loop and a writer of any speed.
type flow struct {
	gate *gate

	mu      sync.Mutex
	changed *sync.Cond
	frames  []*api.ServerFrame
	err     error
	taken   int // the size of the frame that next returned last
}

// frames starts to receive a call's frames.
func (c *connection) frames(stream hostpb.Host_CallClient) *flow {
	f := &flow{gate: c.gate}
	f.changed = sync.NewCond(&f.mu)
	go f.fill(stream)
	return f
}

func (f *flow) fill(stream hostpb.Host_CallClient) {
	for {
		frame, err := stream.Recv()
		if err == nil {
			f.gate.add(size(frame))
		}
		if err == nil && frame.GetResult() != nil {
			f.push(frame, nil)
			frame, err = nil, io.EOF
		}
		f.push(frame, err)
		if err != nil {
			return
		}
	}
}

func (f *flow) push(frame *api.ServerFrame, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.err = err
	} else {
		f.frames = append(f.frames, frame)
	}
	f.changed.Signal()
}

// next returns the next frame; the one before it no longer counts as waiting. After the last it returns the
// error that ended the stream, io.EOF at its ordinary end.
func (f *flow) next() (*api.ServerFrame, error) {
	f.gate.add(-f.taken)
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.frames) == 0 && f.err == nil {
		f.changed.Wait()
	}
	if len(f.frames) == 0 {
		f.taken = 0
		return nil, f.err
	}
	frame := f.frames[0]
	f.frames[0] = nil
	f.frames = f.frames[1:]
	f.taken = size(frame)
	return frame, nil
}

func size(frame *api.ServerFrame) int {
	return len(frame.GetStdout()) + len(frame.GetStderr()) + frameOverhead
}
