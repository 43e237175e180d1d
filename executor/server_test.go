//go:build linux

package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// backend is a Backend that does what a test wants.
type backend struct {
	prepare   func(ctx context.Context, req *api.Prepare, response []byte, log io.Writer) error
	run       func(ctx context.Context, req *api.Run, script []byte, streams api.Streams) (int32, error)
	cleanup   func(ctx context.Context, req *api.Cleanup) error
	events    func(ctx context.Context, job string, follow bool, emit func([]byte) error) error
	sandboxes []*api.SandboxInfo
	listFails error
	bound     []string
}

func (b *backend) Version() api.Version {
	return api.Version{Protocol: api.ProtocolVersion, Version: "v1", Instance: "one"}
}

func (b *backend) Prepare(ctx context.Context, req *api.Prepare, response []byte, log io.Writer) error {
	return b.prepare(ctx, req, response, log)
}

func (b *backend) Run(ctx context.Context, req *api.Run, script []byte, streams api.Streams) (int32, error) {
	return b.run(ctx, req, script, streams)
}

func (b *backend) Cleanup(ctx context.Context, req *api.Cleanup) error { return b.cleanup(ctx, req) }

func (b *backend) Sandbox(_ context.Context, req *api.Sandbox, streams api.Streams) (int32, error) {
	_, err := io.Copy(streams.Stdout, streams.Stdin)
	return int32(len(req.Command)), err
}

func (b *backend) Shell(_ context.Context, req *api.Shell, streams api.Streams) (int32, error) {
	_, err := io.WriteString(streams.Stderr, req.Job)
	return 3, err
}

func (b *backend) PullImage(_ context.Context, req *api.Pull, progress io.Writer) error {
	_, err := io.WriteString(progress, "pulling "+req.Image)
	return err
}

func (b *backend) ImportImage(_ context.Context, req *api.Import, tar io.Reader, progress io.Writer) error {
	n, err := io.Copy(io.Discard, tar)
	_, err2 := fmt.Fprintf(progress, "%s: %d bytes", req.Name, n)
	return errors.Join(err, err2)
}

func (b *backend) List(context.Context) ([]*api.SandboxInfo, error) { return b.sandboxes, b.listFails }

func (b *backend) Inspect(_ context.Context, job string) (*api.SandboxInfo, error) {
	return nil, fault.Adminf("no sandbox of job %q lives", job)
}

func (b *backend) Events(ctx context.Context, job string, follow bool, emit func([]byte) error) error {
	return b.events(ctx, job, follow, emit)
}

func (b *backend) Images(context.Context) (*api.Images, error) {
	return &api.Images{LimitBytes: 7}, nil
}

func (b *backend) RemoveImage(context.Context, string) (int64, error) { return 4711, nil }

func (b *backend) PinImage(_ context.Context, image string, pinned bool) error {
	return fault.Adminf("%s: %t", image, pinned)
}

func (b *backend) Reap(_ context.Context, dryRun bool) ([]*api.Leftover, error) {
	return []*api.Leftover{{Kind: "link", Removed: !dryRun}}, nil
}

func (b *backend) Decisions() []*api.DecisionCount {
	return []*api.DecisionCount{{Rule: "trusted", Isolation: "process", Count: 3}}
}

func (b *backend) Reload(context.Context) error { return fault.Adminf("unknown key") }

func (b *backend) BoundClasses() []string { return b.bound }

// waiting is a run that says "started" and waits for its end.
func waiting(ctx context.Context, _ *api.Run, _ []byte, streams api.Streams) (int32, error) {
	if _, err := io.WriteString(streams.Stdout, "started"); err != nil {
		return 0, err
	}
	<-ctx.Done()
	return 0, context.Cause(ctx)
}

// rig is a server that accepts callers at one entrance.
type rig struct {
	*server
	*backend
	entrance *control.Listener
	others   []*control.Listener
	log      *syncbuf.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	r := &rig{backend: &backend{}, log: &syncbuf.Buffer{}}
	r.server = newServer(r.backend, zerolog.New(r.log))
	r.entrance = listenerOn(t)
	open := func(*control.ListenRequest, []*control.Listener) ([]*control.Listener, error) {
		return append([]*control.Listener{r.entrance}, r.others...), nil
	}
	r.Server = control.NewServer(behind{r.server}, open, zerolog.New(r.log))
	_, err := r.Control().Listen(t.Context(), &control.ListenRequest{})
	require.NoError(t, err)
	t.Cleanup(r.Stop)
	return r
}

func listenerOn(t *testing.T) *control.Listener {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	return &control.Listener{Listener: listener, Entrance: &control.Entrance{Path: path}}
}

// drain asks whether the executor is needed, which it is not any more if nobody needs it.
func (r *rig) drain(t *testing.T) *control.DrainReply {
	t.Helper()
	reply, err := r.Control().Drain(t.Context(), &control.DrainRequest{})
	require.NoError(t, err)
	return reply
}

func (r *rig) dial(t *testing.T) *api.Client {
	t.Helper()
	c, err := api.Dial(t.Context(), r.entrance.GetPath())
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// as is a connection of a peer who has these rights.
func (r *rig) as(t *testing.T, p peer) (*api.Client, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		c := &caller{server: r.server, entrance: r.entrance.Entrance, peer: p}
		api.ServeConn(theirs, c.greet, c.handle)
	}()
	c, err := api.NewClient(t.Context(), ours)
	t.Cleanup(func() { _ = ours.Close(); <-served })
	return c, err
}

// outcome is what a call brought.
type outcome struct {
	status         int
	err            error
	stdout, stderr string
}

func call(ctx context.Context, c *api.Client, op api.Op, body any, input string) outcome {
	var out, errs bytes.Buffer
	status, err := c.Call(ctx, op, body, api.Streams{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
	return outcome{status, err, out.String(), errs.String()}
}

// begin makes a call and waits until its first output; the result comes later.
func begin(t *testing.T, c *api.Client, op api.Op, body any) <-chan outcome {
	t.Helper()
	started, ended := make(chan struct{}, 8), make(chan outcome, 1)
	go func() {
		status, err := c.Call(t.Context(), op, body, api.Streams{Stdout: notifying(started), Stderr: io.Discard})
		ended <- outcome{status: status, err: err}
	}()
	await(t, started)
	return ended
}

type notifying chan<- struct{}

func (n notifying) Write(p []byte) (int, error) { n <- struct{}{}; return len(p), nil }

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		require.FailNow(t, "it never came")
		panic("unreachable")
	}
}

func TestCallsReachTheBackendAndResultsComeBack(t *testing.T) {
	r := newRig(t)
	r.prepare = func(_ context.Context, req *api.Prepare, response []byte, log io.Writer) error {
		_, err := fmt.Fprintf(log, "%s of %d: %d bytes", req.Handle, req.RunnerUID, len(response))
		return err
	}
	r.run = func(_ context.Context, req *api.Run, script []byte, streams api.Streams) (int32, error) {
		if streams.Stdin != nil {
			return 0, errors.New("a stage has no input but its script")
		}
		_, err := io.WriteString(streams.Stdout, req.Stage+" "+string(script))
		return 7, err
	}
	cleaned := make(chan string, 1)
	r.cleanup = func(_ context.Context, req *api.Cleanup) error { cleaned <- req.Handle; return nil }
	r.events = func(_ context.Context, job string, follow bool, emit func([]byte) error) error {
		return errors.Join(emit(fmt.Appendf(nil, `{"job":%q}`, job)), emit(fmt.Appendf(nil, "%t", follow)))
	}
	c := r.dial(t)
	require.Equal(t, "one", c.Version().Instance)
	for _, w := range []struct {
		op    api.Op
		body  any
		input string
		want  outcome
	}{
		{api.OpPrepare, api.Prepare{Handle: "1-a", RunnerUID: 7}, "{}", outcome{stdout: "1-a of 0: 2 bytes"}},
		{api.OpRun, api.Run{Stage: "build"}, "echo", outcome{status: 7, stdout: "build echo"}},
		{api.OpCleanup, api.Cleanup{Handle: "1-a"}, "", outcome{}},
		{api.OpSandbox, api.Sandbox{Command: []string{"a", "b"}}, "in", outcome{status: 2, stdout: "in"}},
		{api.OpShell, api.Shell{Job: "42"}, "", outcome{status: 3, stderr: "42"}},
		{api.OpPull, api.Pull{Image: "x"}, "", outcome{stdout: "pulling x"}},
		{api.OpImport, api.Import{Name: "x"}, "tar", outcome{stdout: "x: 3 bytes"}},
		{api.OpEvents, api.Events{Job: "42", Follow: true}, "", outcome{stdout: "{\"job\":\"42\"}\ntrue\n"}},
	} {
		require.Equal(t, w.want, call(t.Context(), c, w.op, w.body, w.input), w.op)
	}
	require.Equal(t, "1-a", await(t, cleaned))

	images, err := api.Ask(t.Context(), c, api.ListImages, api.Nothing{})
	require.NoError(t, err)
	require.EqualValues(t, 7, images.LimitBytes)
	removed, err := api.Ask(t.Context(), c, api.RemoveImage, api.ImageRequest{Image: "x"})
	require.NoError(t, err)
	require.EqualValues(t, 4711, removed.FreedBytes)
	_, err = api.Ask(t.Context(), c, api.PinImage, api.PinRequest{Image: "x", Pinned: true})
	require.EqualError(t, err, "x: true")
	leftovers, err := api.Ask(t.Context(), c, api.Reap, api.ReapRequest{DryRun: true})
	require.NoError(t, err)
	require.Equal(t, []*api.Leftover{{Kind: "link"}}, leftovers)
	sandboxes, err := api.Ask(t.Context(), c, api.ListSandboxes, api.Nothing{})
	require.NoError(t, err)
	require.Empty(t, sandboxes)
	_, err = api.Ask(t.Context(), c, api.InspectOne, api.InspectRequest{Job: "42"})
	require.EqualError(t, err, `no sandbox of job "42" lives`)
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	end := call(t.Context(), c, "teapot", api.Nothing{}, "")
	require.ErrorContains(t, end.err, `the executor knows no call "teapot"`)
	end = call(t.Context(), c, api.OpPull, []int{1}, "")
	require.ErrorContains(t, end.err, "reading the call pull")
}

// What a peer may do is by its rights, and by nothing that it says.
func TestRights(t *testing.T) {
	r := newRig(t)
	r.run = func(context.Context, *api.Run, []byte, api.Streams) (int32, error) { return 0, nil }
	r.prepare = func(context.Context, *api.Prepare, []byte, io.Writer) error { return nil }
	r.cleanup = func(context.Context, *api.Cleanup) error { return nil }
	r.events = func(context.Context, string, bool, func([]byte) error) error { return nil }
	jobs := []api.Op{api.OpPrepare, api.OpRun, api.OpCleanup}
	administration := []api.Op{
		api.OpSandbox, api.OpShell, api.OpPull, api.OpImport, api.OpEvents, api.ListSandboxes.Op,
		api.InspectOne.Op, api.ListImages.Op, api.RemoveImage.Op, api.PinImage.Op, api.Reap.Op, "teapot",
	}
	member, err := r.as(t, peer{name: "user 1234", rights: rightsJobs, group: "ci", uid: 1234})
	require.NoError(t, err)
	for _, op := range jobs {
		require.NoError(t, call(t.Context(), member, op, api.Nothing{}, "").err, op)
	}
	for _, op := range administration {
		end := call(t.Context(), member, op, api.Nothing{}, "")
		require.EqualError(t, end.err, fmt.Sprintf("the call %s needs root; user 1234 is not", op))
		require.Equal(t, fault.Admin, fault.ClassOf(end.err))
	}
	for _, c := range []struct{ group, says string }{
		{"", "Airlock's service needs root, since no group is configured; user 1234 is not"},
		{"ci", `user 1234 is neither root nor in the group "ci", which Airlock's service needs`},
	} {
		_, err := r.as(t, peer{name: "user 1234", group: c.group})
		require.EqualError(t, err, c.says)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
}

func TestSettleClass(t *testing.T) {
	r := newRig(t)
	r.bound = []string{"configured"}
	served := listenerOn(t)
	served.RunnerClass = "served"
	r.others = []*control.Listener{served}
	_, err := r.Control().Listen(t.Context(), &control.ListenRequest{})
	require.NoError(t, err)
	s := r.server
	own, open := &control.Entrance{Path: "/run/p", RunnerClass: "protected"}, &control.Entrance{Path: "/run/host"}
	for _, c := range []struct {
		at         *control.Entrance
		said, want string
		refused    string
	}{
		{open, "", "", ""},
		{open, "free", "free", ""},
		{open, "served", "", `runner class "served" has a socket of its own, and /run/host is not it`},
		{open, "configured", "", `runner class "configured" has a socket of its own`},
		{own, "", "protected", ""},
		{own, "protected", "protected", ""},
		{own, "free", "", `the socket /run/p is that of runner class "protected", and the driver was called with --runner-class "free"`},
		{own, "served", "", `the socket /run/p is that of runner class "protected"`},
	} {
		req := &api.Prepare{RunnerClass: c.said}
		err := s.settleClass(c.at, req)
		if c.refused != "" {
			require.ErrorContains(t, err, c.refused)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, req.RunnerClass)
	}
}

func TestUsersTakeNoMoreThanTheirShare(t *testing.T) {
	u := newUsers()
	for range maxConnections {
		require.True(t, u.enter("user 1"))
	}
	require.False(t, u.enter("user 1"))
	require.True(t, u.enter("user 2"), "another user's share is their own")
	u.leave("user 1")
	require.True(t, u.enter("user 1"))
	require.True(t, u.take("user 1", maxInput))
	require.False(t, u.take("user 1", 1))
	require.True(t, u.take("user 1", 0))
	require.True(t, u.take("user 2", 1))
	u.take("user 1", -maxInput)
	require.True(t, u.take("user 1", 1))
	u.take("user 1", -1)
	u.take("user 2", -1)
	for range maxConnections {
		u.leave("user 1")
	}
	u.leave("user 2")
	require.Empty(t, u.use, "whoever has gone is forgotten")
}

// The scripts that calls of a user hold count together; what does not fit may be made again when another has ended.
func TestInputCountsUntilItsCallHasEnded(t *testing.T) {
	r := newRig(t)
	r.run = waiting
	const name = "user 1234"
	member := peer{name: name, rights: rightsJobs, group: "ci"}
	require.True(t, r.users.take(name, maxInput-10))
	first, err := r.as(t, member)
	require.NoError(t, err)
	second, err := r.as(t, member)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	started, ended := make(chan struct{}, 8), make(chan error, 1)
	go func() {
		_, err := first.Call(ctx, api.OpRun, api.Run{}, api.Streams{Stdin: strings.NewReader("12345678"), Stdout: notifying(started), Stderr: io.Discard})
		ended <- err
	}()
	await(t, started)
	end := call(t.Context(), second, api.OpRun, api.Run{}, "123")
	require.EqualError(t, end.err, "the calls of user 1234 hold more than 512 MiB of input")
	require.ErrorIs(t, end.err, api.ErrNotBegun)
	cancel(errors.New("enough"))
	require.EqualError(t, await(t, ended), "enough")
	r.run = func(context.Context, *api.Run, []byte, api.Streams) (int32, error) { return 0, nil }
	require.Eventually(t, func() bool {
		return call(t.Context(), second, api.OpRun, api.Run{}, "1234567890").err == nil
	}, 10*time.Second, 10*time.Millisecond)
	require.False(t, r.users.take(name, 11), "all is given back, and no more than that")
	require.True(t, r.users.take(name, 10))
}

func TestTooMuchInputIsItsAuthors(t *testing.T) {
	r := newRig(t)
	r.run = func(context.Context, *api.Run, []byte, api.Streams) (int32, error) { return 0, nil }
	c := r.dial(t)
	_, err := c.Call(t.Context(), api.OpRun, api.Run{}, api.Streams{
		Stdin: io.LimitReader(zeros{}, api.MaxScript+1), Stdout: io.Discard, Stderr: io.Discard,
	})
	require.EqualError(t, err, "the script is larger than 64 MiB")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	require.Empty(t, r.users.use)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestDrain(t *testing.T) {
	r := newRig(t)
	r.run = waiting
	drain := func() *control.DrainReply { return r.drain(t) }
	c := r.dial(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	started := make(chan struct{}, 8)
	go func() {
		_, err := c.Call(ctx, api.OpRun, api.Run{}, api.Streams{Stdout: notifying(started), Stderr: io.Discard})
		ended <- err
	}()
	await(t, started)
	require.EqualValues(t, 1, drain().Calls, "a call runs")
	require.False(t, drain().Drained)
	require.NoError(t, call(t.Context(), c, api.OpPull, api.Pull{}, "").err, "it goes on as before")
	cancel(errors.New("enough"))
	require.EqualError(t, await(t, ended), "enough")

	r.sandboxes = []*api.SandboxInfo{{ID: "al-1"}}
	require.Eventually(t, func() bool { reply := drain(); return reply.Calls == 0 && reply.Sandboxes == 1 && !reply.Drained },
		10*time.Second, time.Millisecond)
	require.NoError(t, call(t.Context(), c, api.OpPull, api.Pull{}, "").err)
	r.listFails = errors.New("the journal is gone")
	reply, err := r.Control().Drain(t.Context(), &control.DrainRequest{})
	require.ErrorContains(t, err, "the journal is gone")
	require.False(t, reply.Drained)
	require.NoError(t, call(t.Context(), c, api.OpPull, api.Pull{}, "").err)

	// A reader of the log does not keep an executor; nor do callers that are connected.
	r.sandboxes, r.listFails = nil, nil
	r.events = func(ctx context.Context, _ string, _ bool, emit func([]byte) error) error {
		_ = emit([]byte("{}"))
		<-ctx.Done()
		return nil
	}
	begin(t, c, api.OpEvents, api.Events{Follow: true})
	require.True(t, drain().Drained)
	end := call(t.Context(), c, api.OpPull, api.Pull{}, "")
	require.ErrorIs(t, end.err, api.ErrNotBegun, "the call can be made again, to the next executor")
	require.EqualError(t, end.err, "the executor is stopping")
	_, err = api.Dial(t.Context(), r.entrance.GetPath())
	require.Error(t, err, "nobody is accepted any more")
	_, err = r.as(t, peer{name: "root", rights: rightsAll})
	require.ErrorIs(t, err, api.ErrNotBegun, "nor greeted")
	_, err = r.Control().Listen(t.Context(), &control.ListenRequest{})
	require.ErrorContains(t, err, "stopping")
	require.True(t, drain().Drained, "it may be asked again")
}

func TestStopGivesEveryCallItsResult(t *testing.T) {
	r := newRig(t)
	r.run = waiting
	release := make(chan struct{})
	r.cleanup = func(ctx context.Context, _ *api.Cleanup) error {
		<-ctx.Done()
		<-release
		return nil
	}
	var ends []<-chan outcome
	for range 5 {
		ends = append(ends, begin(t, r.dial(t), api.OpRun, api.Run{}))
	}
	slow := make(chan outcome, 1)
	go func() { slow <- call(t.Context(), r.dial(t), api.OpCleanup, api.Cleanup{}, "") }()
	require.Eventually(t, func() bool { return r.drain(t).GetCalls() == 6 }, 10*time.Second, time.Millisecond)
	r.dial(t) // one who makes no call
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.Stop() }()
	for _, end := range ends {
		got := await(t, end)
		require.EqualError(t, got.err, "the executor is stopping")
		require.NotErrorIs(t, got.err, api.ErrNotBegun, "it had begun")
		require.Equal(t, fault.System, fault.ClassOf(got.err))
	}
	select {
	case <-stopped:
		require.Fail(t, "a clean-up is waited for")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	require.Equal(t, outcome{}, await(t, slow))
	await(t, stopped)
}

func TestAPanicEndsItsCallAlone(t *testing.T) {
	r := newRig(t)
	r.run = func(context.Context, *api.Run, []byte, api.Streams) (int32, error) { panic("told to panic") }
	r.events = func(context.Context, string, bool, func([]byte) error) error { panic("told to panic, too") }
	c := r.dial(t)
	for _, op := range []api.Op{api.OpRun, api.OpEvents} {
		end := call(t.Context(), c, op, api.Nothing{}, "")
		require.EqualError(t, end.err, "the executor made a mistake in this call (its log has the details: please report them)")
		require.Equal(t, fault.System, fault.ClassOf(end.err))
	}
	require.Contains(t, r.log.String(), "told to panic")
	require.Contains(t, r.log.String(), "server_test.go", "with its stack")
	require.NoError(t, call(t.Context(), c, api.OpPull, api.Pull{}, "").err)
	require.Zero(t, r.drain(t).GetCalls(), "it counts no more")
}

// Nobody calls cleanup again: once it has begun, it is done.
func TestACleanupGoesOnAfterItsCallerIsGone(t *testing.T) {
	r := newRig(t)
	begun, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	r.cleanup = func(ctx context.Context, _ *api.Cleanup) error {
		close(begun)
		<-release
		done <- ctx.Err()
		return nil
	}
	var gone atomic.Bool
	r.run = func(ctx context.Context, _ *api.Run, _ []byte, _ api.Streams) (int32, error) {
		<-ctx.Done()
		gone.Store(errors.Is(context.Cause(ctx), api.ErrCallerGone))
		return 0, nil
	}
	c := r.dial(t)
	ended := make(chan outcome, 2)
	for _, op := range []api.Op{api.OpCleanup, api.OpRun} {
		go func() { ended <- call(t.Context(), c, op, api.Nothing{}, "") }()
	}
	await(t, begun)
	c.Close()
	for range 2 {
		require.ErrorIs(t, await(t, ended).err, api.ErrLost)
	}
	require.Eventually(t, gone.Load, 10*time.Second, time.Millisecond, "whoever else it was is told")
	close(release)
	require.NoError(t, await(t, done))
}

func TestMetricsCountCalls(t *testing.T) {
	r := newRig(t)
	r.run = func(_ context.Context, req *api.Run, _ []byte, _ api.Streams) (int32, error) {
		if req.Stage == "bad" {
			return 0, fault.Authorf("bad")
		}
		return 1, nil
	}
	c := r.dial(t)
	for _, stage := range []string{"good", "bad", "good"} {
		_ = call(t.Context(), c, api.OpRun, api.Run{Stage: stage}, "")
	}
	_ = call(t.Context(), c, "teapot", api.Nothing{}, "")
	_ = call(t.Context(), c, api.ListImages.Op, api.Nothing{}, "")
	require.True(t, r.drain(t).GetDrained())
	require.ErrorIs(t, call(t.Context(), c, api.OpRun, api.Run{}, "").err, api.ErrNotBegun)
	reply, err := r.Control().Metrics(t.Context(), &control.MetricsRequest{})
	require.NoError(t, err)
	for _, line := range []string{
		`airlock_calls_total{result="ok",verb="run"} 2`, `airlock_calls_total{result="author",verb="run"} 1`,
		`airlock_calls_total{result="system",verb="run"} 1`, `airlock_calls_total{result="system",verb="unknown"} 1`,
		`airlock_call_duration_seconds_count{verb="run"} 4`, `airlock_policy_decisions_total{isolation="process",rule="trusted"} 3`,
		"airlock_cache_limit_bytes 7",
	} {
		require.Contains(t, string(reply.GetText()), line)
	}
	require.NotContains(t, string(reply.GetText()), "teapot")
	require.NotContains(t, string(reply.GetText()), `verb="images"`)
}
