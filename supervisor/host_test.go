//go:build linux

package supervisor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/client"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

func zerologTo(w io.Writer) zerolog.Logger { return zerolog.New(w) }

func prepareFrame() *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Prepare{Prepare: &api.Prepare{Handle: "1-a"}}}
}

func cleanupFrame() *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Cleanup{Cleanup: &api.Cleanup{Handle: "1-a"}}}
}

func TestCallsReachTheBackendAndResultsComeBack(t *testing.T) {
	r := newRig(t)
	h := r.up()

	o := run(t, r.socket, "echo", "echo hello")
	require.Equal(t, "echo hello", o.stdout.String())
	require.Equal(t, "on stderr", o.stderr.String(), "the streams are kept apart")
	require.True(t, o.result.GetOk())
	require.EqualValues(t, 3, o.result.GetExitCode())

	for stage, want := range map[string]struct {
		class   fault.Class
		message string
	}{
		"author": {fault.Author, "the author's fault"},
		"admin":  {fault.Admin, "the administrator's fault (do better)"},
		"other":  {fault.System, "nobody classified this"},
		"panic":  {fault.System, "the executor made a mistake"},
	} {
		err := wire.ResultError(run(t, r.socket, stage, "").result)
		require.ErrorContains(t, err, want.message, stage)
		require.Equal(t, want.class, fault.ClassOf(err), stage)
	}
	h.awaitLog("told to panic") // with its stack
	require.Equal(t, "echo", run(t, r.socket, "echo", "echo").stdout.String(), "the executor survives a panic")

	o = call(t, r.socket, prepareFrame(), dataFrame([]byte("{")), dataFrame([]byte("}")), endFrame())
	require.Equal(t, "2 bytes of response\n", o.stdout.String())
	require.True(t, call(t, r.socket, cleanupFrame()).result.GetOk())
	require.Equal(t, "1-a", r.awaitNote("cleaned", 10*time.Second))

	stream := open(t, dial(t, r.socket), runFrame("signal"), endFrame())
	frame, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, "waiting", string(frame.GetStdout()))
	require.NoError(t, stream.Send(signalFrame(15)))
	require.EqualValues(t, 143, finish(t, stream).result.GetExitCode())
}

func TestACallersMistakesEndTheCallAlone(t *testing.T) {
	r := newRig(t)
	r.up()
	for name, frames := range map[string][]*api.ClientFrame{
		"no opening":       {dataFrame(nil)},
		"opened twice":     {runFrame("hang"), endFrame(), runFrame("hang")},
		"data after end":   {runFrame("hang"), endFrame(), dataFrame([]byte("x"))},
		"oversized data":   {runFrame("echo"), dataFrame(make([]byte, api.MaxChunk+1)), endFrame()},
		"data for cleanup": {&api.ClientFrame{Kind: &api.ClientFrame_Pull{Pull: &api.PullImage{}}}, dataFrame(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			err := wire.ResultError(call(t, r.socket, frames...).result)
			if name != "data for cleanup" || err != nil { // a pull may be over before the data comes
				require.Equal(t, fault.System, fault.ClassOf(err))
				require.Error(t, err)
			}
		})
	}

	stream := open(t, dial(t, r.socket), runFrame("echo"), dataFrame([]byte("half a scr")))
	require.NoError(t, stream.CloseSend())
	require.ErrorContains(t, wire.ResultError(finish(t, stream).result), "receiving the script: unexpected EOF")

	stream = open(t, dial(t, r.socket), runFrame("echo"))
	chunk := make([]byte, api.MaxChunk)
	for range plugin.MaxScript/api.MaxChunk + 1 {
		require.NoError(t, stream.Send(dataFrame(chunk)))
	}
	require.NoError(t, stream.Send(endFrame()))
	err := wire.ResultError(finish(t, stream).result)
	require.ErrorContains(t, err, "the script is larger than 64 MiB")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func TestAFrameThatWouldBreakTtrpcIsRefused(t *testing.T) {
	r := newRig(t)
	h := r.up()
	conn, err := net.Dial("unix", r.socket)
	require.NoError(t, err)
	defer conn.Close()
	// A request for Version, then data for its stream: ttrpc would dereference nil.
	request := []byte("\x0a\x0fairlock.v1.Host\x12\x07Version")
	frame := append([]byte{0, 0, 0, byte(len(request)), 0, 0, 0, 1, 1, 0}, request...)
	frame = append(frame, 0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 'x')
	_, err = conn.Write(frame)
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, conn) // until the host hangs up
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String(), "the host lives:\n%s", h.log)
	require.Len(t, r.hosts, 1)
}

func TestAdministratorsMethodsAreForwarded(t *testing.T) {
	r := newRig(t)
	r.up()
	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, r.executor().Instance, c.Version().GetInstance())
	images, err := c.Images(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 7, images.GetLimitBytes())
	freed, err := c.RemoveImage(t.Context(), "x")
	require.NoError(t, err)
	require.EqualValues(t, 4711, freed)
	require.NoError(t, c.PinImage(t.Context(), "x", true))
	r.awaitNote("pinned", 10*time.Second)
	leftovers, err := c.Reap(t.Context(), true)
	require.NoError(t, err)
	require.False(t, leftovers[0].GetRemoved())
	_, err = c.Inspect(t.Context(), "42")
	require.EqualError(t, err, `no sandbox of job "42" lives`)
	require.Equal(t, fault.Admin, fault.ClassOf(err))

	var lines []string
	require.NoError(t, c.Events(t.Context(), "al-000000000001", false, func(json []byte) error {
		lines = append(lines, string(json))
		return nil
	}))
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "the test executor serves")
	require.NotContains(t, lines[0], "SECRET_OF_THE_HOST", "the executor gets a short explicit environment")
	require.Contains(t, lines[0], "PATH=")
}

// heldAtMost is how many bytes of 256 MiB that pass may be in the memory of host and executor together. It is
// about 15 MiB; the race detector takes its share too.
const heldAtMost = 100 << 20

func TestOutputOfASlowReaderIsHeldBackNotBuffered(t *testing.T) {
	r := newRig(t)
	h := r.up()
	executor := r.executor().Process.PID
	before := peakRSS(t, h.cmd.Process.Pid) + peakRSS(t, executor)

	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)
	var out, errs slowWriter
	out.stall = 1500 * time.Millisecond // longer than ttrpc waits for a reader
	status, err := c.Sandbox(t.Context(), &api.Sandbox{Command: []string{"flood", "128"}},
		api.Streams{Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Zero(t, status)
	require.EqualValues(t, 128<<20, out.written)
	require.EqualValues(t, 128<<20, errs.written)
	require.Equal(t, map[byte]bool{'a': true}, out.seen)
	require.Equal(t, map[byte]bool{'b': true}, errs.seen)

	after := peakRSS(t, h.cmd.Process.Pid) + peakRSS(t, executor)
	require.Less(t, after-before, int64(heldAtMost), "host and executor together held too much")
}

// slowWriter stalls once, then takes what comes, and remembers which bytes came.
type slowWriter struct {
	stall   time.Duration
	written int64
	seen    map[byte]bool
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.seen == nil {
		time.Sleep(w.stall)
		w.seen = map[byte]bool{}
	}
	w.written += int64(len(p))
	w.seen[p[0]], w.seen[p[len(p)-1]] = true, true
	return len(p), nil
}

func TestInputIsHeldBackNotBuffered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	executor := r.executor().Process.PID
	before := peakRSS(t, h.cmd.Process.Pid) + peakRSS(t, executor)
	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)

	const size = 256 << 20
	hash := sha256.New()
	var progress strings.Builder
	tar := io.TeeReader(io.LimitReader(rand.Reader, size), hash)
	require.NoError(t, c.ImportImage(t.Context(), &api.ImportImage{Name: "x"}, tar, &progress))
	require.Equal(t, fmt.Sprintf("%d %s", size, hex.EncodeToString(hash.Sum(nil))), progress.String())
	after := peakRSS(t, h.cmd.Process.Pid) + peakRSS(t, executor)
	require.Less(t, after-before, int64(heldAtMost), "host and executor together held too much")
}

func TestADriverThatIsKilledEndsItsStage(t *testing.T) {
	for name, args := range map[string][]string{
		"waiting":                    {"hang"},
		"reading nothing":            {"flood 0", "deaf"},
		"sending what nobody reads":  {"stuff"},
		"sending and reading nought": {"stuff", "deaf"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.up()
			driver := exec.Command(os.Args[0], append([]string{r.socket}, args...)...)
			driver.Env = append(os.Environ(), testRole+"=driver")
			require.NoError(t, driver.Start())
			time.Sleep(time.Second) // the call is under way and whatever can fill up has
			require.NoFileExists(t, filepath.Join(r.script.Notes, "cause"))
			require.NoError(t, driver.Process.Kill())
			_ = driver.Wait()
			require.Equal(t, plugin.ErrCallerGone.Error(), r.awaitNote("cause", 10*time.Second))
			require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
		})
	}
}

func TestAKilledExecutorIsASystemFailureAndIsReplaced(t *testing.T) {
	r := newRig(t)
	h := r.up()
	stream := open(t, dial(t, r.socket), runFrame("hang"), endFrame())
	_, err := stream.Recv()
	require.NoError(t, err)
	first := r.executor()
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGKILL))

	err = wire.ResultError(finish(t, stream).result)
	require.ErrorContains(t, err, "ended while the call ran")
	require.Equal(t, fault.System, fault.ClassOf(err))

	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String(), "the next call waits for the next executor")
	require.NotEqual(t, first.Instance, r.executor().Instance)
	h.awaitLog("the executor has ended")
}

func TestAnExecutorThatCannotStartIsReportedToCallers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.script.StartDie = true
	r.configure()
	h := r.up()
	h.awaitLog("told to die at the start") // its stderr
	go func() {
		time.Sleep(time.Second)
		r.script.StartDie = false
		r.configure()
	}()
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String(), "a call waits while it is tried again")
}

func TestAHostThatIsKilledFindsItsExecutorAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	call(t, r.socket, prepareFrame(), endFrame())
	first := r.executor()
	h.kill()
	require.True(t, alive(first.Process))

	h = r.up()
	h.awaitLog("attached to the executor")
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
	require.Equal(t, first.Instance, r.executor().Instance)
	run(t, r.socket, "panic", "")
	h.awaitLog("told to panic") // the lines of a found executor arrive too

	// A stop leaves it as well while a sandbox lives, and ends it when none does.
	h.signal(syscall.SIGTERM)
	require.NoError(t, h.wait())
	require.True(t, alive(first.Process))
	h = r.up()
	h.awaitLog("attached to the executor")
	call(t, r.socket, cleanupFrame())
	h.signal(syscall.SIGTERM)
	require.NoError(t, h.wait())
	require.False(t, alive(first.Process))
	require.Equal(t, "clean", r.awaitNote("stopped", 10*time.Second), "it was asked, not killed")
}

func TestStoppingEndsCallsWithAResult(t *testing.T) {
	r := newRig(t)
	r.opts.StopExecutor = true
	h := r.up()
	call(t, r.socket, prepareFrame(), endFrame())
	first := r.executor()
	stream := open(t, dial(t, r.socket), runFrame("hang"), endFrame())
	_, err := stream.Recv()
	require.NoError(t, err)
	silent := open(t, dial(t, r.socket), runFrame("hush"), endFrame())
	r.awaitNote("hushed", 10*time.Second)
	h.signal(syscall.SIGTERM)
	for _, call := range []callStream{stream, silent} {
		err = wire.ResultError(finish(t, call).result)
		require.ErrorContains(t, err, "the Airlock service is stopping")
		require.Equal(t, fault.System, fault.ClassOf(err))
	}
	require.NoError(t, h.wait())
	require.False(t, alive(first.Process), "StopExecutor ends it although a sandbox lives")
}

func TestAnExecutorThatNobodyRecordedIsEnded(t *testing.T) {
	r := newRig(t)
	h := r.start(failpoint.Variable + "=host/executor-started=kill")
	require.Error(t, h.wait())
	holder, err := identity.Holder(paths{r.opts.RunDir}.executorLock())
	require.NoError(t, err)
	require.True(t, alive(holder), "it outlives its host")

	r.up()
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
	require.False(t, alive(holder))
}

func TestAStoppedExecutorThatDoesNotAnswerIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	call(t, r.socket, prepareFrame(), endFrame())
	first := r.executor()
	h.kill()
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGSTOP))
	go func() { // it would take all of StopGrace: let the request to end reach it
		time.Sleep(testAnswerTimeout + 500*time.Millisecond)
		_ = syscall.Kill(first.Process.PID, syscall.SIGCONT)
	}()
	h = r.up()
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
	// Its lock, which the next one waits for, goes a moment before the process.
	require.Eventually(t, func() bool { return !alive(first.Process) }, 20*time.Second, 5*time.Millisecond)
	require.Contains(t, h.log.String(), errNoAnswer.Error())
}

func TestAStaleRecordEndsNobody(t *testing.T) {
	t.Parallel()
	stranger := exec.Command("sleep", "60")
	require.NoError(t, stranger.Start())
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	id, err := identity.Of(stranger.Process.Pid)
	require.NoError(t, err)

	for name, process := range map[string]identity.Process{
		"its id was reused":      {PID: id.PID, Start: id.Start - 1, Boot: id.Boot},
		"it is somebody else's":  id, // even a record that matches is no licence: the lock is the executor's
		"it names a dead one":    {PID: 1 << 22, Start: 1, Boot: id.Boot},
		"it is of another boot":  {PID: id.PID, Start: id.Start, Boot: "x"},
		"it names the init task": {PID: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			require.NoError(t, paths{r.opts.RunDir}.prepare())
			require.NoError(t, writeRecord(paths{r.opts.RunDir}.record(), record{
				Network: "unix", Address: filepath.Join(r.opts.RunDir, "plugin", "gone"), Process: process,
				Instance: "x", Protocol: api.ProtocolVersion,
			}))
			r.up()
			require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
			require.True(t, alive(id))
		})
	}
}

func TestABinaryThatChangedIsNeverStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	call(t, r.socket, prepareFrame(), endFrame())
	first := r.executor()
	r.install("another build")
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGKILL))
	require.Error(t, h.wait(), "the service ends: its restart takes the new binary")
	require.Contains(t, h.log.String(), "has changed since the service was started")

	r.opts.Checksum = first.Checksum
	h = r.start()
	require.Error(t, h.wait())
	require.Contains(t, h.log.String(), "has the checksum")
}

func TestAnUpgradeWaitsForTheLastSandbox(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	call(t, r.socket, prepareFrame(), endFrame())
	first := r.executor()
	h.kill()
	r.install("another build")
	h = r.up()
	h.awaitLog("it is replaced as soon as no sandbox lives")
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
	require.True(t, alive(first.Process), "its sandbox lives")
	call(t, r.socket, cleanupFrame())
	require.Eventually(t, func() bool { return !alive(first.Process) }, 2*idleCheck, 20*time.Millisecond)
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
	require.NotEqual(t, first.Checksum, r.executor().Checksum)
}

func TestAnExecutorOfAnotherProtocolIsRefused(t *testing.T) {
	r := newRig(t)
	r.script.Protocol = 99
	r.configure()
	h := r.start()
	require.Error(t, h.wait())
	require.Contains(t, h.log.String(), "speaks protocol 99, this host speaks 1")
	require.Contains(t, h.log.String(), "of one release")
}

func TestOnlyOneHostRuns(t *testing.T) {
	r := newRig(t)
	first := r.up()
	second := r.start()
	require.Error(t, second.wait())
	require.Contains(t, second.log.String(), "another airlock serve runs here")
	require.Contains(t, second.log.String(), fmt.Sprintf("process %d", first.cmd.Process.Pid))
	require.ErrorContains(t, StopExecutor(r.opts.RunDir, zerologTo(io.Discard)), "another airlock serve")
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
}

func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	r.executor()
	h.signal(syscall.SIGHUP)
	h.awaitLog("the configuration was reloaded")
	r.awaitNote("reloaded", 10*time.Second)
	r.script.Broken = true
	r.configure()
	h.signal(syscall.SIGHUP)
	h.awaitLog("NOT reloaded")
	h.awaitLog(`unknown key \"memroy\"`)
}

func TestWhoMayDoWhat(t *testing.T) {
	r := newRig(t)
	r.opts.Group = "nogroup"
	r.up()
	require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String(), "root may")
	// os.Args[0] lies where only root may go: the drivers run a copy.
	for path, mode := range map[string]os.FileMode{r.socket: 0o660, filepath.Dir(r.socket): 0o750,
		paths{r.opts.RunDir}.plugin(): 0o700} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	binary := filepath.Join(r.opts.RunDir, "driver")
	text, err := os.ReadFile(r.opts.ExecutorPath)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary, text, 0o755))
	as := func(uid, gid uint32, stage string) (string, error) {
		cmd := exec.Command(binary, r.socket, stage)
		cmd.Dir = "/"
		cmd.Env = []string{testRole + "=driver"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	const nobody, nogroup = 65534, 65534

	out, _ := as(nobody, nogroup, "echo")
	require.NotContains(t, out, "denied", "a member of the group may run stages")
	out, err = as(nobody, nogroup, "stuff")
	require.Error(t, err)
	require.Contains(t, out, "the call sandbox needs root; user 65534 is not")
	out, err = as(nobody, nogroup, "version")
	require.Error(t, err)
	require.Contains(t, out, "listing images needs root")
	out, err = as(1234, 1234, "version")
	require.Error(t, err)
	require.Contains(t, out, "permission denied", "the directory keeps others out")

	// Were the directory open, the credentials would still be checked.
	require.NoError(t, os.Chmod(filepath.Dir(r.socket), 0o755))
	require.NoError(t, os.Chmod(r.socket, 0o666))
	for _, stage := range []string{"version", "echo"} {
		out, err = as(1234, 1234, stage)
		require.Error(t, err)
		require.Contains(t, out, `user 1234 is neither root nor in the group "nogroup"`)
	}
	// nobody's primary group is nogroup, also when it runs with another one.
	out, _ = as(nobody, 1234, "echo")
	require.NotContains(t, out, "neither")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.opts.MetricsAddress, r.opts.Version = free.Addr().String(), "1.2.3"
	require.NoError(t, free.Close())
	r.up()
	run(t, r.socket, "echo", "x")
	run(t, r.socket, "author", "x")
	require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
	require.Equal(t, "x", retryRun(t, r.socket).stdout.String())
	reply, err := http.Get("http://" + r.opts.MetricsAddress + "/metrics")
	require.NoError(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	for _, line := range []string{
		`airlock_build_info{version="1.2.3"} 1`, `airlock_calls_total{result="author",verb="run"} 1`,
		"airlock_executor_restarts_total 1", "airlock_executor_up 1",
		`airlock_call_duration_seconds_count{verb="run"}`,
		`airlock_policy_decisions_total{isolation="process",rule="trusted"} 3`,
		`airlock_policy_decisions_total{isolation="hypervisor",rule="default"} 2`,
		"airlock_cache_used_bytes 6", "airlock_cache_limit_bytes 7", "airlock_cache_used_inodes 400", "airlock_cache_limit_inodes 500",
		"airlock_cache_pinned_bytes 5", "airlock_cache_pinned_inodes 30", "airlock_cache_images 1",
		"airlock_cache_free_bytes 1000", "airlock_cache_free_inodes 900", "airlock_cache_min_free_bytes 100", "airlock_cache_min_free_inodes 90",
		"airlock_cache_evictions_total 11", `airlock_cache_refusals_total{reason="image_limit"} 12`, `airlock_cache_refusals_total{reason="no_room"} 13`,
	} {
		require.Contains(t, string(text), line)
	}
}

// retryRun runs a stage again while the executor's end is only being noticed.
func retryRun(t *testing.T, socket string) *outcome {
	t.Helper()
	for {
		if o := run(t, socket, "echo", "x"); o.result.GetOk() {
			return o
		}
	}
}

func TestTheExecutorTalksToItsHostAlone(t *testing.T) {
	r := newRig(t)
	r.up()
	left := r.executor()
	tlsConfig, err := plugin.ClientTLS(paths{r.opts.RunDir}.tls())
	require.NoError(t, err)
	ask := func(config *tls.Config, method string) error {
		conn, err := grpc.NewClient("unix://"+left.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		require.NoError(t, err)
		defer conn.Close()
		return conn.Invoke(t.Context(), method, &api.ListRequest{}, &api.ListReply{})
	}
	require.NoError(t, ask(tlsConfig, "/airlock.v1.Executor/List"))
	reflection := "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	require.Equal(t, codes.PermissionDenied, status.Code(ask(tlsConfig, reflection)))
	stranger := tlsConfig.Clone()
	stranger.Certificates = nil
	require.Equal(t, codes.Unavailable, status.Code(ask(stranger, "/airlock.v1.Executor/List")))

	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", left.Process.PID))
	require.NoError(t, err)
	require.NotContains(t, string(env), "SECRET_OF_THE_HOST")
	stdin, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", left.Process.PID))
	require.NoError(t, err)
	require.Equal(t, os.DevNull, stdin)
	sid, err := unix.Getsid(left.Process.PID)
	require.NoError(t, err)
	require.Equal(t, left.Process.PID, sid, "a session of its own")
}

func TestOneCallAtATime(t *testing.T) {
	r := newRig(t)
	r.up()
	host := dial(t, r.socket)
	first := open(t, host, runFrame("hang"), endFrame())
	_, err := first.Recv()
	require.NoError(t, err)
	second := open(t, host, runFrame("echo"))
	_, err = second.Recv()
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

// TestAStoppedHostLeavesNothingInItsProcess runs the host in this process, lets it lose an executor, cut calls
// short and be hung up on, and then counts goroutines and file descriptors.
func TestAStoppedHostLeavesNothingInItsProcess(t *testing.T) {
	r := newRig(t)
	ignored := goleak.IgnoreCurrent()
	before := descriptors(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		ended <- Run(ctx, Options{
			ConfigPath: r.opts.ConfigPath, ExecutorPath: r.opts.ExecutorPath, RunDir: r.opts.RunDir,
			StopExecutor: true, MetricsAddress: "127.0.0.1:0", Logger: zerologTo(io.Discard),
			Ready: func() { close(ready) },
		})
	}()
	<-ready
	t.Run("calls", func(t *testing.T) { // its end closes the drivers' connections
		require.Equal(t, "x", run(t, r.socket, "echo", "x").stdout.String())
		hanging := open(t, dial(t, r.socket), runFrame("hang"), endFrame())
		_, err := hanging.Recv()
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
		require.False(t, finish(t, hanging).result.GetOk())
		require.Equal(t, "x", retryRun(t, r.socket).stdout.String())

		c, err := client.Dial(t.Context(), r.socket)
		require.NoError(t, err)
		followed := make(chan struct{})
		go func() {
			_ = c.Events(ctx, "", true, func([]byte) error { return nil })
			close(followed)
		}()
		cut := open(t, dial(t, r.socket), runFrame("hang"), endFrame())
		_, err = cut.Recv()
		require.NoError(t, err)
		stop()
		require.False(t, finish(t, cut).result.GetOk())
		<-followed
	})
	require.NoError(t, <-ended)
	goleak.VerifyNone(t, ignored)
	require.Eventually(t, func() bool { return descriptors(t) <= before }, 10*time.Second, 10*time.Millisecond,
		"file descriptors are left")
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestPausesBetweenStartsGrow(t *testing.T) {
	b := backoff{}
	require.Equal(t, 100*time.Millisecond, b.next())
	require.Equal(t, 200*time.Millisecond, b.next())
	for range 20 {
		b.next()
	}
	require.Equal(t, 30*time.Second, b.next())
}
