package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	ttrpclog "github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/rs/zerolog"
	"github.com/sirupsen/logrus"

	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// door lets drivers and administrators in: it accepts connections, finds out who is there, and serves each
// connection on its own, because what a caller may do depends on who it is.
type door struct {
	entrances  []*entrance
	classes    *classes
	supervisor *supervisor
	metrics    *metrics
	log        zerolog.Logger

	ctx    context.Context // ends the calls in flight
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	shut  bool
	open  map[*connection]struct{}
	conns sync.WaitGroup
}

func newDoor(entrances []*entrance, opts Options, supervisor *supervisor, metrics *metrics) *door {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &door{
		entrances: entrances, classes: supervisor.classes, supervisor: supervisor, metrics: metrics, log: opts.Logger,
		ctx: ctx, cancel: cancel, open: map[*connection]struct{}{},
	}
}

// accept lets callers in by one entrance until the door is closed.
func (d *door) accept(e *entrance) {
	for {
		conn, err := e.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, most likely: they come back
			d.log.Error().Err(err).Msg("accepting a connection")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c, ok := d.enter(conn, e)
		if !ok {
			_ = conn.Close()
			return
		}
		go func() {
			defer d.leave(c)
			d.serve(c)
		}()
	}
}

func (d *door) enter(conn net.Conn, e *entrance) (*connection, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil, false
	}
	c := &connection{door: d, entrance: e, conn: newPacedConn(conn)}
	d.open[c] = struct{}{}
	d.conns.Add(1)
	return c, true
}

func (d *door) leave(c *connection) {
	_ = c.conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
	d.conns.Done()
}

// serve serves one connection until either side ends it.
func (d *door) serve(c *connection) {
	var err error
	if c.peer, err = identify(c.conn.Conn, c.entrance.group); err != nil {
		d.log.Error().Err(err).Msg("a caller could not be identified")
		return
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		d.log.Error().Err(err).Msg("serving a connection")
		return
	}
	hostpb.RegisterHostService(server, c)
	// Its only error is that the connection has ended.
	_ = server.Serve(quiet(context.Background()), &onlyConn{conn: c.conn})
}

// quiet keeps ttrpc's own messages, which say that a driver has gone, out of our stderr.
func quiet(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return ttrpclog.WithLogger(ctx, logrus.NewEntry(logger))
}

// beginCall marks a connection as one whose caller waits for a result; false once the door is closed.
func (d *door) beginCall(c *connection) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return false
	}
	c.called = true
	return true
}

// close lets nobody in any more, gives the calls in flight their results, and ends the connections.
func (d *door) close() {
	closeEntrances(d.entrances)
	d.mu.Lock()
	d.shut = true
	d.mu.Unlock()
	d.cancel(errStopping)

	// A caller hangs up once it has its result; nothing else tells that ttrpc has written it. (Its Shutdown
	// would not do: it takes a call that has no output yet for none.)
	patience, cancel := context.WithTimeoutCause(context.Background(), lastResults, errStopping)
	defer cancel()
	for _, c := range d.waiting() {
		select {
		case <-c.conn.closed:
		case <-patience.Done():
			d.log.Warn().Str("caller", c.peer.name).Msg("a caller does not hang up")
		}
	}
	d.mu.Lock()
	for c := range d.open {
		_ = c.conn.Close()
	}
	d.mu.Unlock()
	d.conns.Wait()
}

// waiting returns the connections that have made a call.
func (d *door) waiting() []*connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	var waiting []*connection
	for c := range d.open {
		if c.called {
			waiting = append(waiting, c)
		}
	}
	return waiting
}

// onlyConn is a listener that yields one connection and then waits for its end.
type onlyConn struct {
	conn    *pacedConn
	yielded bool
}

func (l *onlyConn) Accept() (net.Conn, error) {
	if !l.yielded {
		l.yielded = true
		return l.conn, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *onlyConn) Close() error   { return nil }
func (l *onlyConn) Addr() net.Addr { return l.conn.LocalAddr() }
