//go:build linux

package supervisor

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	realdriver "github.com/airlock-ci/airlock/driver"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// TestAStageGoesOnWithoutItsSupervisor: every byte of its output and its status come, at the pace of its reader, whatever
// becomes of the supervisor.
func TestAStageGoesOnWithoutItsSupervisor(t *testing.T) {
	const size = 32 // MiB, of each stream
	for name, upset := range map[string]func(*rig, *process) *process{
		"killed":   func(r *rig, s *process) *process { s.kill(); return r.up() },
		"stopped":  func(r *rig, s *process) *process { s.signal(syscall.SIGTERM); _ = s.wait(); return r.up() },
		"reloaded": func(_ *rig, s *process) *process { s.signal(syscall.SIGHUP); return s },
		"upgraded": func(r *rig, s *process) *process {
			s.signal(syscall.SIGTERM)
			_ = s.wait()
			r.install(strings.Repeat("another build", len(r.all)))
			s = r.up()
			s.awaitLog("it is replaced as soon as no sandbox lives")
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s := r.up()
			out, errs := newLazyHash(time.Millisecond), newLazyHash(time.Millisecond)
			j := r.job("", out)
			ended := j.run(fmt.Sprintf("noise %d", size), errs)
			out.await(t, 1)
			first := r.executor()
			for _, mib := range []int64{2, 8, 20} {
				out.await(t, mib)
				s = upset(r, s)
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
			require.Empty(t, j.errs.String(), "nobody noticed")
		})
	}
}

// TestCallsGoOnHoweverLongTheSupervisorIsAway: what runs goes on, and what is new is taken.
func TestCallsGoOnHoweverLongTheSupervisorIsAway(t *testing.T) {
	t.Parallel()
	const away = 40 * time.Second // the former limit was 30
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	stage := beginStage(t, r.socket, "signal").await("waiting")
	shell := begin(t, r.socket, api.OpShell, api.Shell{Job: "1"}, "")
	shell.sizes <- &api.Resize{Rows: 1, Columns: 2}
	shell.await("1 x 2\n")
	op, body, response := prepareOf(`{"is": "slow"}`)
	preparing := begin(t, r.socket, op, body, response)
	r.awaitNote("preparing", 10*time.Second)
	pulling := begin(t, r.socket, api.OpPull, api.Pull{Image: "slow"}, "")
	r.awaitNote("pulling", 10*time.Second)
	followed := begin(t, r.socket, api.OpEvents, api.Events{Follow: true}, "")
	first := r.executor()

	s.kill()
	killed := time.Now()
	for time.Since(killed) < away {
		echoes(t, r.socket)
		time.Sleep(time.Second)
	}
	shell.sizes <- &api.Resize{Rows: 3, Columns: 4}
	shell.await("1 x 2\n3 x 4\n")
	for _, c := range []*call{stage, shell, preparing, pulling, followed} {
		require.False(t, c.ended(), "%v", c.err)
	}
	s = r.up()
	s.awaitLog("attached to the executor")
	s.signal(syscall.SIGHUP)
	s.awaitLog("the configuration was reloaded")
	require.NoError(t, os.WriteFile(filepath.Join(r.script.Notes, "go on"), nil, 0o600))
	require.NoError(t, preparing.end().err)
	require.Contains(t, preparing.stdout.String(), "prepared slowly\n")
	require.NoError(t, pulling.end().err)
	require.Equal(t, "pulling slow", pulling.stdout.String())
	for _, c := range []*call{stage, shell} {
		c.signals <- 15
		require.NoError(t, c.end().err)
		require.Equal(t, 143, c.status)
	}
	require.Contains(t, followed.stdout.String(), "the test executor serves")
	require.False(t, followed.ended())
	require.Equal(t, first.Instance, r.executor().Instance)
}

// A driver whose runner does not read for a while misses nothing.
func TestARunnerThatDoesNotReadMissesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close()
	j := r.job("", writer)
	ended := j.run("noise 8", io.Discard)
	r.awaitNote("begun noise", 20*time.Second)
	time.Sleep(500 * time.Millisecond) // everything that can fill up has
	s.kill()
	s = r.up()
	s.awaitLog("attached to the executor")
	got := sha256.New()
	code := make(chan int, 1)
	go func() {
		code <- <-ended
		_ = writer.Close()
	}()
	_, err = io.Copy(got, reader)
	require.NoError(t, err)
	require.Equal(t, buildFailure, <-code)
	want := sha256.New()
	_, _ = io.Copy(want, noise(0, 8))
	require.Equal(t, want.Sum(nil), got.Sum(nil))
}

// TestAJobWithoutASupervisor: the real driver's calls begin and end while no supervisor lives, signals arrive at once.
func TestAJobWithoutASupervisor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	echoes(t, r.socket)
	s.kill()
	var out syncbuf.Buffer
	j := r.job(`{"id": 1}`, &out)
	require.Zero(t, j.code(j.begin(nil, realdriver.Prepare)), j.errs.String())
	require.Equal(t, "9 bytes of response\n", out.String())
	ended := j.run("signal", nil)
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "waiting") }, 20*time.Second, time.Millisecond)
	j.signals <- syscall.SIGTERM
	require.Equal(t, buildFailure, j.code(ended), j.errs.String())
	status, err := os.ReadFile(j.path("status"))
	require.NoError(t, err)
	require.Equal(t, "143\n", string(status))
	require.Zero(t, j.code(j.begin(nil, realdriver.Cleanup)), j.errs.String())
}

func TestAKilledDriverEndsItsStageWhateverBecameOfTheSupervisor(t *testing.T) {
	for _, when := range []string{"before a restart", "while there is none", "after a restart"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s := r.up()
			driver := exec.Command(os.Args[0], r.socket, r.job("", nil).path("script"), "hang")
			driver.Env = append(os.Environ(), testRole+"=airlock-driver")
			var out syncbuf.Buffer
			driver.Stdout, driver.Stderr = &out, &out
			require.NoError(t, driver.Start())
			require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
			if when != "before a restart" {
				s.kill()
			}
			if when == "after a restart" {
				s = r.up()
				s.awaitLog("attached to the executor")
			}
			require.NoError(t, driver.Process.Kill())
			_ = driver.Wait()
			killed := time.Now()
			require.Equal(t, api.ErrCallerGone.Error(), r.awaitNote("cause", 10*time.Second))
			require.Less(t, time.Since(killed), 2*time.Second, "at once")
			require.Equal(t, "hanging", out.String())
		})
	}
}

func TestAnExecutorThatDiedTooIsASystemFailureAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	var out syncbuf.Buffer
	j := r.job("", &out)
	ended := j.run("hang", nil)
	require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
	s.kill()
	killed := time.Now()
	require.NoError(t, syscall.Kill(r.executor().Process.PID, syscall.SIGKILL))
	require.Equal(t, systemFailure, j.code(ended))
	require.Less(t, time.Since(killed), 2*time.Second)
	require.Contains(t, j.errs.String(), "the executor ended while the call ran")
	require.Equal(t, 1, strings.Count(j.errs.String(), "\n"), "one line: %s", &j.errs)
	r.up()
	echoes(t, r.socket)
}

func TestAFullStopTellsTheDriverWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.opts.StopExecutor = true
	s := r.up()
	var out syncbuf.Buffer
	j := r.job("", &out)
	ended := j.run("hang", nil)
	require.Eventually(t, func() bool { return out.String() == "hanging" }, 20*time.Second, time.Millisecond)
	started := time.Now()
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.Equal(t, systemFailure, j.code(ended))
	require.Contains(t, j.errs.String(), "the executor is stopping")
	require.Less(t, time.Since(started), 15*time.Second, "nobody waits for the stage, which hangs")
}
