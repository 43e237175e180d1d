package control

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Executor is what stands behind a Server: package executor has one, docs/contract.md shows another.
type Executor interface {
	Version() api.Version
	// Serve serves one connection until it ends, by api.ServeConn: it greets the caller with Server.Greet, and enters
	// each of its calls with Server.Begin.
	Serve(conn net.Conn, from *Listener)
	// Sandboxes returns how many sandboxes would be lost with the executor.
	Sandboxes(ctx context.Context) (int, error)
	// Reload reads the configuration again. What it refuses changes nothing.
	Reload(ctx context.Context) error
	// Metrics returns the executor's figures in Prometheus' text format; none is fine.
	Metrics() ([]byte, error)
	// Events calls emit with each kept log line, then with each new one, until ctx ends: JSON objects as zerolog writes
	// them.
	Events(ctx context.Context, emit func(json []byte) error) error
}

// Listener is where callers are let in by one entrance. Its Close leaves the path alone, which is the supervisor's.
type Listener struct {
	net.Listener
	*Entrance
}

// Open makes the listeners that a request asks for. former are those that the process has: what they share with others
// may be used again, and those that Open returns again stay open.
type Open func(req *ListenRequest, former []*Listener) ([]*Listener, error)

// Server is an executor's part of the boundary: it answers the supervisor, accepts callers on the sockets that it hands
// over, and knows which calls run. NewServer makes it.
type Server struct {
	executor Executor
	open     Open
	log      zerolog.Logger
	calls    *calls

	mu        sync.Mutex
	listeners []*Listener
	conns     map[net.Conn]struct{}
	serving   sync.WaitGroup
	stopped   bool
}

// NewServer makes a server for an executor. open is OpenSockets on Linux.
func NewServer(executor Executor, open Open, log zerolog.Logger) *Server {
	return &Server{executor: executor, open: open, log: log, calls: newCalls(), conns: map[net.Conn]struct{}{}}
}

// Greet answers the first call of a connection. An executor that is about to end refuses it; the caller comes again.
func (s *Server) Greet() (api.Version, error) {
	if s.calls.refuses() {
		return api.Version{}, api.NotBegun(fault.Systemf("%w", ErrStopping))
	}
	return s.executor.Version(), nil
}

// Begin enters a call and returns its context, which ends with parent's cause, or with ErrStopping. needed says that the
// executor must not be replaced under it. The caller ends it with finish. A call that is refused may be made again; its
// context is parent then.
func (s *Server) Begin(parent context.Context, needed bool) (ctx context.Context, finish func(), err error) {
	return s.calls.begin(parent, needed)
}

// Entrances returns those by which callers are let in now.
func (s *Server) Entrances() (all []*Entrance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		all = append(all, l.Entrance)
	}
	return all
}

// listen accepts callers on these listeners from now on, and on no other. Those who wait in the queue of a socket that
// stays are kept: it is the same socket.
func (s *Server) listen(listeners []*Listener) error {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		closeAll(listeners)
		return fault.Systemf("%w", ErrStopping)
	}
	former := s.listeners
	s.listeners = listeners
	s.mu.Unlock()
	for _, l := range listeners {
		if slices.Contains(former, l) {
			continue // it is accepted on already
		}
		go s.accept(l)
		s.log.Info().Str("socket", l.GetPath()).Str("group", l.GetGroup()).Str("runner_class", l.GetRunnerClass()).Msg("accepting callers")
	}
	closeAll(slices.DeleteFunc(former, func(l *Listener) bool { return slices.Contains(listeners, l) }))
	return nil
}

func closeAll(listeners []*Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// accept lets callers in by one entrance until it is closed.
func (s *Server) accept(l *Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely: they come back
			s.log.Error().Err(err).Msg("accepting a connection")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !s.enter(conn) { // nothing was said yet: the caller comes again
			_ = conn.Close()
			return
		}
		go func() {
			defer s.leave(conn)
			s.executor.Serve(conn, l)
		}()
	}
}

func (s *Server) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.conns[conn] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) leave(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	s.serving.Done()
}

// deaf stops accepting callers, for good if stopped: they wait for the next executor, in the queues of sockets that the
// supervisor has, too.
func (s *Server) deaf(stopped bool) {
	s.mu.Lock()
	former := s.listeners
	s.listeners, s.stopped = nil, s.stopped || stopped
	s.mu.Unlock()
	closeAll(former)
}

const (
	// stopTimeout is how long the calls that run when the executor is asked to stop may take to return.
	stopTimeout = 30 * time.Second
	// lastResults is how long callers have to close their connections once all calls have their results.
	lastResults = 3 * time.Second
)

// Stop cancels all calls, waits until they have their results, but not for ever, and ends the connections. What a stuck
// call holds is the executor's to find.
func (s *Server) Stop() {
	s.deaf(true)
	select {
	case <-s.calls.stop():
	case <-time.After(stopTimeout):
		s.log.Error().Dur("after", stopTimeout).Msg("calls did not return when the executor stopped")
	}
	left := make(chan struct{})
	go func() { s.serving.Wait(); close(left) }()
	select {
	case <-left: // a caller closes its connection when it has the result
		return
	case <-time.After(lastResults):
	}
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	select {
	case <-left:
	case <-time.After(stopTimeout):
	}
}
