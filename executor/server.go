package executor

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// server accepts drivers and administrators, finds out who they are, and serves each connection on its own, because what
// a caller may do depends on who it is and by which socket it came.
type server struct {
	backend Backend
	log     zerolog.Logger
	calls   *calls
	users   *users
	metrics *metrics

	mu        sync.Mutex
	entrances []*entrance
	open      map[net.Conn]struct{}
	conns     sync.WaitGroup
}

// entrance is one of the sockets by which callers come.
type entrance struct {
	net.Listener
	path, group string
	class       string // that of all who come here; empty: they may say
}

// caller is one connection.
type caller struct {
	server   *server
	entrance *entrance
	peer     peer
}

func newServer(backend Backend, log zerolog.Logger) *server {
	return &server{
		backend: backend, log: log, calls: newCalls(), users: newUsers(), metrics: newMetrics(backend), open: map[net.Conn]struct{}{},
	}
}

// listen accepts callers by these entrances from now on, and by no other. Those who wait for one that stays are kept: it
// is the same socket.
func (s *server) listen(entrances []*entrance) {
	s.mu.Lock()
	former := s.entrances
	s.entrances = entrances
	s.mu.Unlock()
	for _, e := range entrances {
		if slices.Contains(former, e) {
			continue // it is accepted already
		}
		go s.accept(e)
		s.log.Info().Str("socket", e.path).Str("group", e.group).Str("runner_class", e.class).Msg("accepting callers")
	}
	closeAll(slices.DeleteFunc(former, func(e *entrance) bool { return slices.Contains(entrances, e) }))
}

func closeAll(entrances []*entrance) {
	for _, e := range entrances {
		_ = e.Close()
	}
}

// accept lets callers in by one entrance until it is closed.
func (s *server) accept(e *entrance) {
	for {
		conn, err := e.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely: they come back
			s.log.Error().Err(err).Msg("accepting a connection")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.open[conn] = struct{}{}
		s.mu.Unlock()
		s.conns.Go(func() {
			defer s.leave(conn)
			s.serve(conn, e)
		})
	}
}

func (s *server) leave(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
}

// serve serves one connection until either side ends it.
func (s *server) serve(conn net.Conn, e *entrance) {
	peer, err := identify(conn, e.group)
	if err != nil {
		s.log.Error().Err(err).Msg("a caller could not be identified")
		return
	}
	if peer.rights < rightsAll {
		if !s.users.enter(peer.name) {
			s.log.Warn().Str("caller", peer.name).Int("connections", maxConnections).Msg("a user has too many connections: refused another")
			return
		}
		defer s.users.leave(peer.name)
	}
	c := &caller{server: s, entrance: e, peer: peer}
	api.ServeConn(conn, c.greet, c.handle)
}

// greet answers the first call of a connection.
func (c *caller) greet() (api.Version, error) {
	if err := c.peer.require(rightsJobs, "Airlock's service"); err != nil {
		return api.Version{}, err
	}
	if c.server.calls.refuses() {
		return api.Version{}, api.NotBegun(fault.Systemf("%w", ErrStopping))
	}
	return c.server.backend.Version(), nil
}

// deaf stops accepting callers: they wait for the next executor, in the queues of sockets that the supervisor has, too.
func (s *server) deaf() (former []*entrance) {
	s.mu.Lock()
	former, s.entrances = s.entrances, nil
	s.mu.Unlock()
	closeAll(former)
	return former
}

// stopTimeout is how long the calls that run when the executor is asked to stop may take to return.
const stopTimeout = 30 * time.Second

// lastResults is how long callers have to hang up once all calls have their results.
const lastResults = 3 * time.Second

// stop cancels all calls, waits until they have their results, but not for ever, and ends the connections. What a stuck
// call holds, the reaper finds.
func (s *server) stop() {
	s.deaf()
	select {
	case <-s.calls.stop():
	case <-time.After(stopTimeout):
		s.log.Error().Dur("after", stopTimeout).Msg("calls did not return when the executor stopped")
	}
	left := make(chan struct{})
	go func() { s.conns.Wait(); close(left) }()
	select {
	case <-left: // whoever made a call hangs up when the result is there
		return
	case <-time.After(lastResults):
	}
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	select {
	case <-left:
	case <-time.After(stopTimeout):
	}
}
