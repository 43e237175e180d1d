package executor

import (
	"context"
	"net"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
)

// server is a control.Executor: it finds out who the callers are that a control.Server accepts, and serves each connection
// on its own, because what a caller may do depends on who it is and by which socket it came.
type server struct {
	*control.Server
	backend Backend
	log     zerolog.Logger
	users   *users
	metrics *metrics
}

// caller is one connection.
type caller struct {
	server   *server
	entrance *control.Entrance
	peer     peer
}

func newServer(backend Backend, log zerolog.Logger) *server {
	s := &server{backend: backend, log: log, users: newUsers(), metrics: newMetrics(backend)}
	s.Server = control.NewServer(behind{s}, openEntrances, log)
	return s
}

// behind is what control.Server asks for.
type behind struct{ server *server }

func (b behind) Version() api.Version { return b.server.backend.Version() }

// Serve serves one connection until either side ends it.
func (b behind) Serve(conn net.Conn, from *control.Listener) {
	s := b.server
	peer, err := identify(conn, from.GetGroup())
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
	c := &caller{server: s, entrance: from.Entrance, peer: peer}
	api.ServeConn(conn, c.greet, c.handle)
}

func (b behind) Sandboxes(ctx context.Context) (int, error) {
	sandboxes, err := b.server.backend.List(ctx)
	return len(sandboxes), err
}

func (b behind) Reload(ctx context.Context) error { return b.server.backend.Reload(ctx) }

func (b behind) Metrics() ([]byte, error) { return b.server.metrics.text() }

func (b behind) Events(ctx context.Context, emit func(json []byte) error) error {
	return b.server.backend.Events(ctx, "", true, emit)
}

// greet answers the first call of a connection.
func (c *caller) greet() (api.Version, error) {
	if err := c.peer.require(rightsJobs, "Airlock's service"); err != nil {
		return api.Version{}, err
	}
	return c.server.Greet()
}
