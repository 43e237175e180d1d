package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/syncbuf"
	"github.com/airlock-ci/airlock/testing/system"
)

// The tests of this file kill the real processes at named steps. What must hold each time: the runner gets a
// system failure or the true result, the next job with the same input succeeds, and nothing is left.

// killOnce is the environment that kills a process the first time it comes to a point.
func killOnce(t *testing.T, point string) (env, marker string) {
	t.Helper()
	marker = filepath.Join(t.TempDir(), "killed")
	return fmt.Sprintf("%s=%s=kill-once:%s", failpoint.Variable, point, marker), marker
}

func requireKilled(t *testing.T, marker string) {
	t.Helper()
	_, err := os.Stat(marker)
	require.NoError(t, err, "the failpoint was never reached: this test proves nothing")
}

// requireTrueOrSystem checks a job whose processes were killed.
func requireTrueOrSystem(t *testing.T, result outcome) {
	t.Helper()
	if result.Success {
		require.Contains(t, result.Log, "\nthe script ran", "a success that never happened")
		return
	}
	require.Equal(t, gitlabtest.SystemFailure, result.Reason, result.Log)
}

// requireSound checks that the system works and has nothing left over.
func (b *bench) requireSound(t *testing.T) {
	t.Helper()
	next := b.run(aJob())
	require.True(t, next.Success, next.Log)
	require.Eventually(t, func() bool {
		out, err := b.Airlock("reap", "--dry-run", "--json").Output()
		return err == nil && !strings.Contains(string(out), `"al-`)
	}, 30*time.Second, 200*time.Millisecond, "the reaper has leftovers: %s", b.airlock("reap", "--dry-run"))
	require.NotContains(t, b.airlock("ps"), "al-")
}

func aJob() gitlabtest.Job {
	return gitlabtest.Job{Script: []string{"echo the script ran"}, AfterScript: []string{"true"}}
}

func TestAnExecutorKilledAtEachStep(t *testing.T) { eachLevel(t, anExecutorKilledAtEachStep) }

func anExecutorKilledAtEachStep(t *testing.T, level string) {
	made := map[string][]string{
		"process":    {"scratch-disk", "scratch-attached", "scratch-mounted"},
		"hypervisor": {"cache-disk", "cache-disk-named", "scratch-guest"},
	}
	for _, point := range append(made[level],
		"prepare/recorded", "prepare/intended-lease", "cache-unpacked", "cache-commit",
		"prepare/intended-scratch", "prepare/scratch-made",
		"prepare/intended-network", "prepare/network-made",
		"prepare/intended-sandbox", "sandbox/mounted", "sandbox/launched", "prepare/sandbox-made",
		"run/stage-started", "run/stage-ended",
		"cleanup/started", "cleanup/sandbox-gone", "cleanup/network-gone", "cleanup/scratch-gone",
	) {
		t.Run(strings.ReplaceAll(point, "/", " "), func(t *testing.T) {
			env, marker := killOnce(t, point)
			o := system.Options{Isolation: level, Env: []string{env}}
			if strings.HasPrefix(point, "cache-") {
				o.StateDir = withoutImages(t) // something is left to unpack there
			}
			b := start(t, o)
			result := b.run(aJob())
			requireKilled(t, marker)
			requireTrueOrSystem(t, result)
			if strings.HasPrefix(point, "cleanup/") {
				require.True(t, result.Success, "the job was over: %s", result.Log)
			}
			b.requireSound(t)
		})
	}
}

// withoutImages makes a state directory that has what is known about this host's virtual machines, and nothing else.
func withoutImages(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.Mkdir(dir, 0o755))
	known := filepath.Join(state, "microvm")
	if _, err := os.Stat(known); err == nil {
		out, err := exec.Command("cp", "--archive", "--sparse=always", known, dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

func TestAHostKilledAtEachStep(t *testing.T) {
	for _, point := range []string{"supervisor/executor-started", "supervisor/sockets-chosen", "supervisor/sockets-handed"} {
		t.Run(strings.ReplaceAll(point, "/", " "), func(t *testing.T) {
			env, marker := killOnce(t, point)
			b := start(t, system.Options{Env: []string{env}, Restart: true})
			result := b.run(aJob())
			requireKilled(t, marker)
			require.True(t, result.Success, "the executor survived: %s", result.Log)
			for _, call := range result.Calls {
				require.Zero(t, call.ExitCode, "%s failed, and was only made again: %s", call, result.Log)
			}
			b.requireSound(t)
		})
	}
}

func TestAHostThatDiesInTheMiddleOfAScriptLosesNothing(t *testing.T) {
	const lines = 2_000_000
	for name, end := range map[string]func(*bench) error{
		"killed":  func(b *bench) error { return errors.Join(b.KillHost(), b.WaitAnswer(b.t.Context())) },
		"stopped": func(b *bench) error { return errors.Join(b.Stop(), b.StartHost(b.t.Context())) },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, system.Options{Restart: name == "killed", LeaveExecutor: true})
			executor, err := b.ExecutorPID()
			require.NoError(t, err)
			log := &syncbuf.Buffer{}
			b.caller.Stdout = log
			ended := make(chan error, 1)
			b.caller.Started = func(call *gitlabtest.Call) {
				if call.Stage == "build_script" {
					go func() { ended <- errors.Join(end(b), end(b), end(b)) }()
				}
			}
			result := b.run(gitlabtest.Job{Script: []string{
				"touch /tmp/marker", fmt.Sprintf("echo; seq 1 %d; sleep 1; echo and the rest", lines), "exit 7",
			}, AfterScript: []string{"ls /tmp/marker && echo still here"}})
			require.NoError(t, <-ended)
			require.Equal(t, gitlabtest.ScriptFailure, result.Reason, result.Log)
			require.Equal(t, 7, result.ExitCode)
			require.Contains(t, log.String(), "\nstill here")
			_, rest, _ := strings.Cut(log.String(), "\n1\n")
			next := 2
			for line := range strings.Lines(rest) {
				if next > lines {
					require.Equal(t, "and the rest\n", line)
					break
				}
				require.Equal(t, strconv.Itoa(next)+"\n", line)
				next++
			}
			require.Equal(t, lines+1, next)
			now, err := b.ExecutorPID()
			require.NoError(t, err)
			require.Equal(t, executor, now, "the executor outlived its hosts")
		})
	}
}

func TestAHostThatRestartsBetweenStagesLosesNoJob(t *testing.T) {
	b := start(t, system.Options{Restart: true})
	executor, err := b.ExecutorPID()
	require.NoError(t, err)
	b.caller.Before = func(call *gitlabtest.Call) {
		if call.Stage == "after_script" {
			require.NoError(t, b.KillHost())
			require.NoError(t, b.WaitAnswer(t.Context()))
		}
	}
	result := b.run(gitlabtest.Job{Script: []string{"touch /tmp/marker"}, AfterScript: []string{"ls /tmp/marker && echo still here"}})
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "\nstill here")
	now, err := b.ExecutorPID()
	require.NoError(t, err)
	require.Equal(t, executor, now, "the executor outlived its host")
}

func TestADriverKilledAtEachStep(t *testing.T) {
	b := start(t, system.Options{})
	for _, call := range []string{"prepare", "run", "cleanup"} {
		for _, step := range []string{"connected", "sent", "result"} {
			t.Run(call+" "+step, func(t *testing.T) {
				env, marker := killOnce(t, "driver/"+call+"-"+step)
				b.caller = b.newCaller()
				b.caller.Env = append(os.Environ(), env)
				result := b.run(aJob())
				requireKilled(t, marker)
				requireTrueOrSystem(t, result)
				b.caller = b.newCaller()
				if call == "cleanup" && step == "connected" {
					// Nobody calls cleanup again: the job is an orphan as long as this process, its runner, lives.
					b.airlock("reap")
					require.Contains(t, b.kill(t), "al-", "its sandbox waits for its runner, which lives")
				}
				b.requireSound(t)
			})
		}
	}
}

// kill ends what lives by a clean-up of the executor: it is killed, and the next one finds the rest.
func (b *bench) kill(t *testing.T) string {
	t.Helper()
	living := b.airlock("ps")
	pid, err := b.ExecutorPID()
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		now, err := b.ExecutorPID()
		return err == nil && now != pid
	}, 20*time.Second, 50*time.Millisecond)
	return living
}

func TestADriverKilledInTheMiddleOfAScriptEndsIt(t *testing.T) {
	b := start(t, system.Options{})
	b.caller.Started = func(call *gitlabtest.Call) {
		if call.Stage == "build_script" {
			go func() {
				time.Sleep(time.Second)
				_ = syscall.Kill(call.PID, syscall.SIGKILL)
			}()
		}
	}
	result := b.run(gitlabtest.Job{
		Script:      []string{"(setsid sleep 1000 &)", "sleep 1000"},
		AfterScript: []string{"sleep 1", "echo sleepers: $(cat /proc/[0-9]*/comm | grep -c sleep)"},
	})
	require.Equal(t, gitlabtest.SystemFailure, result.Reason, result.Log)
	require.Contains(t, result.Log, "sleepers: 0", result.Log)
}
