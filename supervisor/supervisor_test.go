//go:build linux

package supervisor

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

func zerologTo(w io.Writer) zerolog.Logger { return zerolog.New(w) }

func TestAKilledExecutorIsASystemFailureAndIsReplaced(t *testing.T) {
	r := newRig(t)
	s := r.up()
	hanging := beginStage(t, r.socket, "hang").await("hanging")
	first := r.executor()
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGKILL))
	require.ErrorIs(t, hanging.end().err, api.ErrLost)
	require.Equal(t, fault.System, fault.ClassOf(hanging.err))

	echoes(t, r.socket) // the next call waits for the next executor
	require.NotEqual(t, first.Instance, r.executor().Instance)
	s.awaitLog("the executor has ended")
}

func TestAnExecutorThatCannotStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.script.StartDie = true
	r.configure()
	s := r.up()
	s.awaitLog("told to die at the start") // its stderr
	go func() {
		time.Sleep(time.Second)
		r.script.StartDie = false
		r.configure()
	}()
	echoes(t, r.socket) // a call waits meanwhile
}

func TestASupervisorThatIsKilledFindsItsExecutorAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	first := r.executor()
	s.kill()
	require.True(t, alive(first.Process))

	s = r.up()
	s.awaitLog("attached to the executor")
	echoes(t, r.socket)
	require.Equal(t, first.Instance, r.executor().Instance)
	run(t, r.socket, "panic", "")
	s.awaitLog("told to panic") // the lines of a found executor arrive too

	// A stop leaves it as well while a sandbox lives, and ends it when none does.
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.True(t, alive(first.Process))
	s = r.up()
	s.awaitLog("attached to the executor")
	cleanUp(t, r.socket)
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.False(t, alive(first.Process))
	require.Equal(t, "clean", r.awaitNote("stopped", 10*time.Second), "it was asked, not killed")
}

func TestStoppingTheExecutorEndsCallsWithAResult(t *testing.T) {
	r := newRig(t)
	r.opts.StopExecutor = true
	s := r.up()
	prepare(t, r.socket)
	first := r.executor()
	loud := beginStage(t, r.socket, "hang").await("hanging")
	silent := beginStage(t, r.socket, "hush")
	r.awaitNote("hushed", 10*time.Second)
	s.signal(syscall.SIGTERM)
	for _, c := range []*call{loud, silent} {
		require.ErrorContains(t, c.end().err, "the executor is stopping")
		require.NotErrorIs(t, c.err, api.ErrLost, "a result, not a broken connection")
		require.Equal(t, fault.System, fault.ClassOf(c.err))
	}
	require.NoError(t, s.wait())
	require.False(t, alive(first.Process), "StopExecutor ends it although a sandbox lives")
}

func TestAnExecutorThatNobodyRecordedIsEnded(t *testing.T) {
	r := newRig(t)
	s := r.start(failpoint.Variable + "=supervisor/executor-started=kill")
	require.Error(t, s.wait())
	holder, err := identity.Holder(paths{r.opts.RunDir}.executorLock())
	require.NoError(t, err)
	require.True(t, alive(holder), "it outlives its supervisor")

	r.up()
	echoes(t, r.socket)
	require.False(t, alive(holder))
}

func TestAStoppedExecutorThatDoesNotAnswerIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	first := r.executor()
	s.kill()
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGSTOP))
	s = r.up()
	s.awaitLog(errNoAnswer.Error())
	s.awaitLog("ending an executor that no supervisor knows")
	// It would take all of StopGrace: let the request to end reach it.
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGCONT))
	echoes(t, r.socket)
	// Its lock, which the next one waits for, goes a moment before the process.
	require.Eventually(t, func() bool { return !alive(first.Process) }, 20*time.Second, 5*time.Millisecond)
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
			echoes(t, r.socket)
			require.True(t, alive(id))
		})
	}
}

func TestABinaryThatChangedIsNeverStarted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	first := r.executor()
	r.install("another build")
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGKILL))
	require.Error(t, s.wait(), "the service ends: its restart takes the new binary")
	require.Contains(t, s.log.String(), "has changed since the service was started")

	r.opts.Checksum = first.Checksum
	s = r.start()
	require.Error(t, s.wait())
	require.Contains(t, s.log.String(), "has the checksum")
}

func TestAnUpgradeWaitsForTheLastSandboxAndCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	first := r.executor()
	s.kill()
	r.install("another build")
	s = r.up()
	s.awaitLog("it is replaced as soon as no sandbox lives")
	time.Sleep(idleCheck + time.Second)
	echoes(t, r.socket)
	require.True(t, alive(first.Process), "its sandbox lives")
	waiting := beginStage(t, r.socket, "signal").await("waiting")
	cleanUp(t, r.socket)
	time.Sleep(idleCheck + time.Second)
	require.True(t, alive(first.Process), "its call runs")
	require.False(t, waiting.ended())
	waiting.signals <- 15
	require.NoError(t, waiting.end().err)
	require.Equal(t, 143, waiting.status)
	require.Eventually(t, func() bool { return !alive(first.Process) }, 2*idleCheck, 20*time.Millisecond)
	echoes(t, r.socket)
	require.NotEqual(t, first.Checksum, r.executor().Checksum)
}

func TestAnExecutorOfAnotherProtocolIsRefused(t *testing.T) {
	r := newRig(t)
	r.script.Protocol = 99
	r.configure()
	s := r.start()
	require.Error(t, s.wait())
	require.Contains(t, s.log.String(), fmt.Sprintf("speaks protocol 99, this service speaks %d", api.ProtocolVersion))
	require.Contains(t, s.log.String(), "of one release")
}

func TestOnlyOneSupervisorRuns(t *testing.T) {
	r := newRig(t)
	first := r.up()
	second := r.start()
	require.Error(t, second.wait())
	require.Contains(t, second.log.String(), "another airlock serve runs here")
	require.Contains(t, second.log.String(), fmt.Sprintf("process %d", first.cmd.Process.Pid))
	require.ErrorContains(t, StopExecutor(r.opts.RunDir, zerologTo(io.Discard)), "another airlock serve")
	echoes(t, r.socket)
}

// TestStopExecutor: what `airlock service uninstall` does once the service has stopped.
func TestStopExecutor(t *testing.T) {
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	hanging := beginStage(t, r.socket, "hang").await("hanging")
	left := r.executor()
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.True(t, alive(left.Process))
	require.NoError(t, StopExecutor(r.opts.RunDir, zerologTo(io.Discard)))
	require.ErrorContains(t, hanging.end().err, "the executor is stopping")
	require.False(t, alive(left.Process))
	require.Equal(t, "clean", r.awaitNote("stopped", 10*time.Second), "it was asked, not killed")
	require.NoFileExists(t, r.socket, "nobody is there any more")
	require.NoError(t, StopExecutor(r.opts.RunDir, zerologTo(io.Discard)), "there is none any more")
}

func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	r.executor()
	s.signal(syscall.SIGHUP)
	s.awaitLog("the configuration was reloaded")
	r.awaitNote("reloaded", 10*time.Second)
	r.script.Broken = true
	r.configure()
	s.signal(syscall.SIGHUP)
	s.awaitLog("NOT reloaded")
	s.awaitLog(`unknown key \"memroy\"`)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.opts.MetricsAddress, r.opts.Version = free.Addr().String(), "1.2.3"
	require.NoError(t, free.Close())
	r.up()
	hanging := beginStage(t, r.socket, "hang").await("hanging")
	require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
	require.Error(t, hanging.end().err)
	echoes(t, r.socket)
	require.Error(t, run(t, r.socket, "author", "x").err)
	require.Eventually(t, func() bool { return contains(scrape(t, r), "airlock_executor_up 1") }, 10*time.Second, 50*time.Millisecond)
	text := scrape(t, r)
	for _, line := range []string{
		`airlock_build_info{version="1.2.3"} 1`, `airlock_calls_total{result="author",verb="run"} 1`,
		"airlock_executor_restarts_total 1", "airlock_executor_up 1", `airlock_calls_total{result="ok",verb="run"} 1`,
		`airlock_call_duration_seconds_count{verb="run"} 2`,
		`airlock_policy_decisions_total{isolation="process",rule="trusted"} 3`,
		`airlock_policy_decisions_total{isolation="hypervisor",rule="default"} 2`,
		"airlock_cache_used_bytes 6", "airlock_cache_limit_bytes 7", "airlock_cache_used_inodes 400", "airlock_cache_limit_inodes 500",
		"airlock_cache_pinned_bytes 5", "airlock_cache_pinned_inodes 30", "airlock_cache_images 1",
		"airlock_cache_free_bytes 1000", "airlock_cache_free_inodes 900", "airlock_cache_min_free_bytes 100", "airlock_cache_min_free_inodes 90",
		"airlock_cache_evictions_total 11", `airlock_cache_refusals_total{reason="image_limit"} 12`, `airlock_cache_refusals_total{reason="no_room"} 13`,
	} {
		require.Contains(t, text, line)
	}

	// While there is no executor, the supervisor's own figures are served.
	r.script.StartDie = true
	r.configure()
	require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool { return contains(scrape(t, r), "airlock_executor_up 0") }, 10*time.Second, 50*time.Millisecond)
	require.NotContains(t, scrape(t, r), "airlock_cache")
}

func contains(text, line string) bool { return slices.Contains(strings.Split(text, "\n"), line) }

func scrape(t *testing.T, r *rig) string {
	t.Helper()
	reply, err := http.Get("http://" + r.opts.MetricsAddress + "/metrics")
	require.NoError(t, err)
	defer reply.Body.Close()
	require.Equal(t, http.StatusOK, reply.StatusCode)
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	return string(text)
}

func TestTheExecutorIsControlledByItsSupervisorAlone(t *testing.T) {
	r := newRig(t)
	r.up()
	echoes(t, r.socket)
	left := r.executor()
	tlsConfig, err := control.ClientTLS(paths{r.opts.RunDir}.tls())
	require.NoError(t, err)
	const version = "/airlock.v2.Control/Version"
	ask := func(config *tls.Config, method string) error {
		conn, err := grpc.NewClient("unix://"+left.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		require.NoError(t, err)
		defer conn.Close()
		return conn.Invoke(t.Context(), method, &control.VersionRequest{}, &control.VersionReply{})
	}
	require.NoError(t, ask(tlsConfig, version))
	reflection := "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	require.Equal(t, codes.PermissionDenied, status.Code(ask(tlsConfig, reflection)))
	stranger := tlsConfig.Clone()
	stranger.Certificates = nil
	require.Equal(t, codes.Unavailable, status.Code(ask(stranger, version)))

	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", left.Process.PID))
	require.NoError(t, err)
	require.NotContains(t, string(env), "SECRET_OF_THE_SERVICE")
	stdin, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", left.Process.PID))
	require.NoError(t, err)
	require.Equal(t, os.DevNull, stdin)
	sid, err := unix.Getsid(left.Process.PID)
	require.NoError(t, err)
	require.Equal(t, left.Process.PID, sid, "a session of its own")
}

// TestAStoppedSupervisorLeavesNothingInItsProcess runs the supervisor in this process, lets it lose an executor, and
// then counts goroutines and file descriptors.
func TestAStoppedSupervisorLeavesNothingInItsProcess(t *testing.T) {
	r := newRig(t)
	ignored := goleak.IgnoreCurrent()
	before := descriptors(t)
	ctx, stop := context.WithCancelCause(context.Background())
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
	t.Run("calls", func(t *testing.T) { // its end closes the callers' connections
		echoes(t, r.socket)
		hanging := beginStage(t, r.socket, "hang").await("hanging")
		require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
		require.Error(t, hanging.end().err)
		echoes(t, r.socket)

		followed := begin(t, r.socket, api.OpEvents, api.Events{Follow: true}, "")
		cut := beginStage(t, r.socket, "hang").await("hanging")
		stop(errStopping)
		require.Error(t, cut.end().err)
		followed.end()
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
