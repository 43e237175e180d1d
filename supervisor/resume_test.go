//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	realdriver "github.com/airlock-ci/airlock/driver"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// The real driver's exit codes in these tests, beside 0.
const (
	buildFailure  = 41
	systemFailure = 42
)

// job is what a runner's directory holds for the real driver.
type job struct {
	t       *testing.T
	dir     string
	socket  string
	out     io.Writer
	errs    syncbuf.Buffer
	signals chan os.Signal
}

func (r *rig) job(response string, out io.Writer) *job {
	j := &job{t: r.t, dir: r.t.TempDir(), socket: r.socket, out: out, signals: make(chan os.Signal, 4)}
	require.NoError(r.t, os.WriteFile(j.path("response"), []byte(response), 0o600))
	require.NoError(r.t, os.WriteFile(j.path("script"), []byte("text"), 0o600))
	return j
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

// driver is the real driver within this process; nil errs collects what it writes to stderr.
func (j *job) driver(errs io.Writer) *realdriver.Driver {
	if errs == nil {
		errs = &j.errs
	}
	return &realdriver.Driver{
		Socket: j.socket, Dir: j.dir, Stdout: j.out, Stderr: errs, Signals: j.signals,
		Env: gitlab.Environment{
			Handle: string(gitlab.NewHandle(1)), JobResponseFile: j.path("response"),
			BuildFailure: buildFailure, SystemFailure: systemFailure, ExitCodeFile: j.path("status"),
		},
	}
}

// begin starts a call and returns where its exit code will come from.
func (j *job) begin(errs io.Writer, call string, args ...string) <-chan int {
	code := make(chan int, 1)
	go func() { code <- j.driver(errs).Do(context.Background(), call, args...) }()
	return code
}

func (j *job) run(stage string, errs io.Writer) <-chan int {
	return j.begin(errs, realdriver.Run, j.path("script"), stage)
}

// code waits for a call's exit code.
func (j *job) code(ended <-chan int) int {
	j.t.Helper()
	select {
	case code := <-ended:
		return code
	case <-time.After(40 * time.Second):
		require.FailNow(j.t, "the driver does not end", j.errs.String())
		return 0
	}
}

// realDriverMain is a driver process that runs a stage: socket and stage are its arguments.
func realDriverMain() int {
	d := &realdriver.Driver{
		Socket: os.Args[1], Stdout: os.Stdout, Stderr: os.Stderr,
		Env: gitlab.Environment{Handle: string(gitlab.NewHandle(1)), BuildFailure: buildFailure, SystemFailure: systemFailure},
	}
	return d.Do(context.Background(), realdriver.Run, os.Args[2], os.Args[3])
}

// lazyHash is a reader that takes its time: it hashes what it gets, and tells how much that was.
type lazyHash struct {
	hash.Hash
	pause time.Duration
	size  atomic.Int64
}

func newLazyHash(pause time.Duration) *lazyHash { return &lazyHash{Hash: sha256.New(), pause: pause} }

func (l *lazyHash) Write(p []byte) (int, error) {
	time.Sleep(l.pause)
	l.size.Add(int64(len(p)))
	return l.Hash.Write(p)
}

func (l *lazyHash) await(t *testing.T, mib int64) {
	t.Helper()
	require.Eventually(t, func() bool { return l.size.Load() >= mib<<20 }, 20*time.Second, time.Millisecond)
}

func TestAStageOutlivesItsHost(t *testing.T) {
	const size = 32 // MiB, of each stream
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.up()
			first := r.executor()
			out, errs := newLazyHash(time.Millisecond), newLazyHash(time.Millisecond)
			j := r.job("", out)
			ended := j.run(fmt.Sprintf("noise %d", size), errs)
			for _, mib := range []int64{1, 8, 20} {
				out.await(t, mib)
				h.signal(sig)
				_ = h.wait()
				h = r.up()
				h.awaitLog("the driver came back")
			}
			require.Equal(t, buildFailure, j.code(ended))
			status, err := os.ReadFile(j.path("status"))
			require.NoError(t, err)
			require.Equal(t, "42\n", string(status))
			for i, got := range []*lazyHash{out, errs} {
				want := sha256.New()
				_, err := io.Copy(want, noise(i, size))
				require.NoError(t, err)
				require.EqualValues(t, size<<20, got.size.Load())
				require.Equal(t, want.Sum(nil), got.Sum(nil))
			}
			require.Equal(t, first.Instance, r.executor().Instance)
		})
	}
}

// A runner that does not read for a while must not keep its driver from coming back in time.
func TestADriverWhoseRunnerDoesNotReadComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close()
	j := r.job("", writer)
	ended := j.run("noise 8", io.Discard)
	time.Sleep(500 * time.Millisecond) // everything that can fill up has
	h.kill()
	h = r.up()
	h.awaitLog("the driver came back")
	got := sha256.New()
	go func() {
		require.Equal(t, buildFailure, <-ended)
		_ = writer.Close()
	}()
	_, err = io.Copy(got, reader)
	require.NoError(t, err)
	want := sha256.New()
	_, _ = io.Copy(want, noise(0, 8))
	require.Equal(t, want.Sum(nil), got.Sum(nil))
}

func TestAPrepareOutlivesItsHost(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.up()
			first := r.executor()
			var out bytes.Buffer
			j := r.job(`{"id": 1, "is": "slow"}`, &out)
			ended := j.begin(nil, realdriver.Prepare)
			r.awaitNote("preparing", 10*time.Second)
			h.signal(sig)
			_ = h.wait()
			r.up()
			require.NoError(t, os.WriteFile(filepath.Join(r.script.Notes, "go on"), nil, 0o600))
			require.Zero(t, j.code(ended), j.errs.String())
			require.Equal(t, "23 bytes of response\nprepared slowly\n", out.String())
			require.Equal(t, first.Instance, r.executor().Instance)
		})
	}
}

func TestACallSurvivesAHostThatDiesWithItOnTheWay(t *testing.T) {
	for point, call := range map[string]string{
		"host/call-forwarded": realdriver.Prepare, "host/result-received": realdriver.Prepare,
		"host/call-forwarded/": realdriver.Cleanup, "host/result-received/": realdriver.Cleanup,
	} {
		t.Run(call+" "+point, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.up(failpoint.Variable + "=" + filepath.Clean(point) + "=kill")
			first := r.executor()
			var out bytes.Buffer
			j := r.job(`{"id": 1}`, &out)
			ended := j.begin(nil, call)
			require.Error(t, h.wait())
			r.up()
			require.Zero(t, j.code(ended), j.errs.String())
			if call == realdriver.Prepare {
				require.Equal(t, "9 bytes of response\n", out.String())
			}
			require.Equal(t, first.Instance, r.executor().Instance)
		})
	}
}

func TestASignalWhileTheHostIsAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	var out syncbuf.Buffer
	j := r.job("", &out)
	ended := j.run("signal", nil)
	require.Eventually(t, func() bool { return out.String() == "waiting" }, 20*time.Second, time.Millisecond)
	h.kill()
	j.signals <- syscall.SIGTERM
	r.up()
	require.Equal(t, buildFailure, j.code(ended), j.errs.String())
	status, err := os.ReadFile(j.path("status"))
	require.NoError(t, err)
	require.Equal(t, "143\n", string(status))
	require.Equal(t, "waiting", out.String())
}

func TestAKilledDriverEndsItsStageBeforeAndAfterARestart(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			h := r.up()
			driver := exec.Command(os.Args[0], r.socket, os.Args[0], "hang")
			driver.Args[2] = r.job("", nil).path("script")
			driver.Env = append(os.Environ(), testRole+"=airlock-driver")
			var out syncbuf.Buffer
			driver.Stdout, driver.Stderr = &out, &out
			require.NoError(t, driver.Start())
			require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
			if restart {
				h.kill()
				h = r.up()
				h.awaitLog("the driver came back")
			}
			require.NoError(t, driver.Process.Kill())
			_ = driver.Wait()
			require.Equal(t, plugin.ErrCallerGone.Error(), r.awaitNote("cause", 10*time.Second))
			require.Equal(t, "hanging", out.String())
		})
	}
}

func TestAnExecutorThatDiedTooIsASystemFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	h := r.up()
	var out syncbuf.Buffer
	j := r.job("", &out)
	ended := j.run("hang", nil)
	require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
	h.kill()
	require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
	r.up()
	require.Equal(t, systemFailure, j.code(ended))
	require.Contains(t, j.errs.String(), "the executor does not know this call")
}

func TestAFullStopTellsTheDriverWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.opts.StopExecutor = true
	h := r.up()
	var out syncbuf.Buffer
	j := r.job("", &out)
	ended := j.run("hang", nil)
	require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
	started := time.Now()
	h.signal(syscall.SIGTERM)
	require.NoError(t, h.wait())
	require.Equal(t, systemFailure, j.code(ended))
	require.Contains(t, j.errs.String(), "the Airlock service is stopping")
	require.Less(t, time.Since(started), 15*time.Second, "nobody waits for the stage, which hangs")
}
