package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// boundary is a server with an executor behind it whose calls last until the test ends them.
type boundary struct {
	t         *testing.T
	server    controlled
	dir       string
	sandboxes int
	sandboxed error
	release   chan struct{}
}

func newBoundary(t *testing.T) *boundary {
	t.Helper()
	b := &boundary{t: t, dir: t.TempDir(), release: make(chan struct{})}
	b.server = controlled{Server: NewServer(b, OpenSockets, zerolog.Nop())}
	t.Cleanup(func() { b.server.Stop() })
	return b
}

func (b *boundary) Version() api.Version {
	return api.Version{Protocol: api.ProtocolVersion, Instance: "one"}
}
func (b *boundary) Sandboxes(context.Context) (int, error)                 { return b.sandboxes, b.sandboxed }
func (b *boundary) Reload(context.Context) error                           { return nil }
func (b *boundary) Metrics() ([]byte, error)                               { return nil, nil }
func (b *boundary) Events(ctx context.Context, _ func([]byte) error) error { <-ctx.Done(); return nil }

func (b *boundary) Serve(conn net.Conn, _ *Listener) {
	api.ServeConn(conn, b.server.Greet, func(ctx context.Context, call *api.Call) (int, error) {
		ctx, finish, err := b.server.Begin(ctx, call.Op != api.OpEvents)
		if err != nil {
			return 0, err
		}
		defer finish()
		release := b.release
		if call.Op == api.OpEvents {
			release = nil // it lasts
		}
		select {
		case <-release:
			return 7, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})
}

// socket makes a listening socket, as a supervisor does.
func (b *boundary) socket(name string) Socket {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	require.NoError(b.t, err)
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	require.NoError(b.t, err)
	require.NoError(b.t, listener.Close())
	b.t.Cleanup(func() { _ = file.Close() })
	return Socket{Path: path, File: file}
}

// hand hands sockets over and returns the paths that the server handed back.
func (b *boundary) hand(entrances []*Entrance, sockets ...Socket) (back []string, err error) {
	b.t.Helper()
	path := filepath.Join(b.dir, "handover")
	_ = os.Remove(path)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	require.NoError(b.t, err)
	defer listener.Close()
	offered := make(chan error, 1)
	go func() {
		offered <- Offer(listener, func(held []Socket) ([]Socket, error) {
			for _, s := range held {
				back = append(back, s.Path)
			}
			Close(held)
			return sockets, nil
		})
	}()
	_, err = b.server.Listen(b.t.Context(), &ListenRequest{Handover: path, Entrances: entrances})
	_ = listener.Close()
	return back, errors.Join(err, <-offered)
}

func entrancesOf(sockets ...Socket) (all []*Entrance) {
	for _, s := range sockets {
		all = append(all, &Entrance{Path: s.Path})
	}
	return all
}

func (b *boundary) call(client *api.Client, op api.Op) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := client.Call(context.Background(), op, api.Nothing{}, api.Streams{})
		ended <- err
	}()
	return ended
}

func TestSocketsAreHandedOverAndBack(t *testing.T) {
	b := newBoundary(t)
	one, two := b.socket("one"), b.socket("two")
	waiting, err := net.Dial("unix", one.Path) // before anybody accepts
	require.NoError(t, err)
	back, err := b.hand(entrancesOf(one, two), one, two)
	require.NoError(t, err)
	require.Empty(t, back)
	client, err := api.NewClient(t.Context(), waiting)
	require.NoError(t, err)
	defer client.Close()
	require.Equal(t, "one", client.Version().Instance)

	// The next supervisor gets both and hands over one. Connected callers stay.
	back, err = b.hand(entrancesOf(two), two)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{one.Path, two.Path}, back)
	again, err := api.Dial(t.Context(), two.Path)
	require.NoError(t, err)
	again.Close()
	ended := b.call(client, api.OpRun)
	unserved, err := net.Dial("unix", one.Path) // the supervisor has the socket still
	require.NoError(t, err)
	require.NoError(t, unserved.Close())
	close(b.release)
	require.NoError(t, <-ended)

	// What is none of the service's is refused, and nothing changes.
	_, err = b.hand(entrancesOf(two), one)
	require.ErrorContains(t, err, one.Path)
	require.Len(t, b.server.Entrances(), 1)
	var many []Socket
	for range maxSockets + 1 {
		many = append(many, two)
	}
	_, err = b.hand(entrancesOf(two), many...)
	require.ErrorContains(t, err, "at most 64")
	again, err = api.Dial(t.Context(), two.Path)
	require.NoError(t, err)
	again.Close()
}

func TestDrain(t *testing.T) {
	b := newBoundary(t)
	socket := b.socket("s")
	_, err := b.hand(entrancesOf(socket), socket)
	require.NoError(t, err)
	client, err := api.Dial(t.Context(), socket.Path)
	require.NoError(t, err)
	defer client.Close()

	running, followed := b.call(client, api.OpRun), b.call(client, api.OpEvents)
	defer func() { b.server.Stop(); require.ErrorContains(t, <-followed, ErrStopping.Error()) }()
	require.Eventually(t, func() bool { return b.server.calls.count() == 1 }, 10*time.Second, time.Millisecond)
	reply, err := b.server.Drain(t.Context(), &DrainRequest{})
	require.NoError(t, err)
	require.False(t, reply.GetDrained())
	require.EqualValues(t, 1, reply.GetCalls(), "who reads the log holds nobody up")
	require.False(t, b.server.calls.refuses())
	b.release <- struct{}{}
	require.NoError(t, <-running)

	b.sandboxes = 2
	reply, err = b.server.Drain(t.Context(), &DrainRequest{})
	require.NoError(t, err)
	require.False(t, reply.GetDrained())
	require.EqualValues(t, 2, reply.GetSandboxes())
	b.sandboxes, b.sandboxed = 0, fault.Systemf("nobody knows")
	_, err = b.server.Drain(t.Context(), &DrainRequest{})
	require.ErrorContains(t, err, "nobody knows")
	require.False(t, b.server.calls.refuses(), "what is not known is not drained")

	b.sandboxed = nil
	require.Eventually(t, func() bool { return b.server.calls.count() == 0 }, 10*time.Second, time.Millisecond)
	reply, err = b.server.Drain(t.Context(), &DrainRequest{})
	require.NoError(t, err)
	require.True(t, reply.GetDrained())
	require.ErrorIs(t, <-b.call(client, api.OpRun), api.ErrNotBegun)
	require.Empty(t, b.server.Entrances())
	waits, err := net.Dial("unix", socket.Path) // for the next executor
	require.NoError(t, err)
	require.NoError(t, waits.Close())
	_, err = b.hand(entrancesOf(socket), socket)
	require.ErrorContains(t, err, ErrStopping.Error())
}

func TestStopEndsCallsWithAResult(t *testing.T) {
	b := newBoundary(t)
	socket := b.socket("s")
	_, err := b.hand(entrancesOf(socket), socket)
	require.NoError(t, err)
	client, err := api.Dial(t.Context(), socket.Path)
	require.NoError(t, err)
	running := b.call(client, api.OpRun)
	require.Eventually(t, func() bool { return b.server.calls.count() == 1 }, 10*time.Second, time.Millisecond)
	stopped := make(chan struct{})
	go func() { defer close(stopped); b.server.Stop() }()
	err = <-running
	require.ErrorContains(t, err, ErrStopping.Error())
	require.NotErrorIs(t, err, api.ErrLost)
	client.Close()
	<-stopped
	require.FileExists(t, socket.Path, "the path is the supervisor's")
}
