package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/system"
)

// realRunner starts a GitLab Runner that runs the jobs of the bench's GitLab through Airlock.
func (b *bench) realRunner(concurrent int) *gitlabtest.RealRunner {
	b.t.Helper()
	driver, args := b.DriverArgs()
	runner, err := gitlabtest.StartRunner(b.t.Context(), gitlabtest.RunnerOptions{
		Coordinator: b.gitlab, Driver: driver, Args: args, Concurrent: concurrent,
	})
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		require.NoError(b.t, runner.Stop())
		if b.t.Failed() {
			b.t.Logf("the runner's log:\n%s", runner.Log())
		}
	})
	return runner
}

// queue gives a job to the bench's GitLab, whose runner takes it; an empty image means busybox.
func (b *bench) queue(job gitlabtest.Job) int64 {
	if job.Image == "" {
		job.Image = b.registry + "/busybox"
	}
	return b.gitlab.Add(job)
}

// ended waits until a queued job has ended and returns what GitLab knows of it.
func (b *bench) ended(id int64) gitlabtest.JobRecord {
	b.t.Helper()
	ctx, cancel := context.WithTimeoutCause(b.t.Context(), time.Minute, context.DeadlineExceeded)
	defer cancel()
	record, err := b.gitlab.Wait(ctx, id)
	require.NoError(b.t, err, record.Trace)
	return record
}

// prints waits until a queued job has printed text at the start of a line.
func (b *bench) prints(id int64, text string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return strings.Contains(b.gitlab.Job(id).Trace, "\n"+text) }, time.Minute, 20*time.Millisecond,
		"job %d never printed %q", id, text)
}

// sandbox is what these tests read of `airlock ps --json` and `airlock inspect --json`.
type sandbox struct {
	Rule, Policy                                                                           string
	ID, Project, Isolation, Reason, Runtime, Image, Digest, State, Stage, Network, Address string

	JobID            int64     `json:"job_id"`
	CreatedAt        time.Time `json:"created_at"`
	MemoryBytes      int64     `json:"memory_bytes"`
	MemoryLimitBytes int64     `json:"memory_limit_bytes"`
	PIDs             int64     `json:"pids"`
	PIDsLimit        int64     `json:"pids_limit"`
	ScratchUsedBytes int64     `json:"scratch_used_bytes"`
	ScratchBytes     int64     `json:"scratch_bytes"`
	Steps            []struct {
		Name    string
		Seconds float64
	}
	Machine *struct {
		VCPUs       int
		MemoryBytes int64 `json:"memory_bytes"`
		Accelerator string
		Kernel      string
	}
}

// ps returns the living sandboxes as `airlock ps` tells them.
func (b *bench) ps() []sandbox {
	b.t.Helper()
	var list []sandbox
	require.NoError(b.t, json.Unmarshal([]byte(b.airlock("ps", "--json")), &list))
	return list
}

// nothingLives waits until the last sandbox has gone: GitLab learns of a job's end before its clean-up.
func (b *bench) nothingLives() {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return len(b.ps()) == 0 }, 30*time.Second, 50*time.Millisecond, "a sandbox outlived its job")
}

func TestARealRunnersJobs(t *testing.T) {
	b := start(t, system.Options{})
	b.realRunner(1)
	repo, err := b.gitlab.AddRepository(t.Context(), "group/project", map[string]string{"hello.txt": "from the repository\n"})
	require.NoError(t, err)
	protected := true

	good := repo.Build(gitlabtest.Job{
		Protected: &protected,
		Script: []string{
			"cat hello.txt", "cat kept/note 2>/dev/null || echo no cache", "mkdir -p out kept", "echo artifact > out/a.txt", "echo remembered > kept/note",
		},
		AfterScript: []string{"echo after the script"},
		Artifacts:   []gitlabtest.Artifact{{Name: "art", Paths: []string{"out/"}}},
		Cache:       []gitlabtest.Cache{{Key: "k", Paths: []string{"kept/"}}},
	})
	first, second := b.queue(good), b.queue(good)
	failing := b.queue(gitlabtest.Job{Script: []string{"echo about to fail", "exit 42"}, AfterScript: []string{"echo after the failure"}})
	forging := b.queue(gitlabtest.Job{Script: []string{"exit 2"}})
	imageless := b.queue(gitlabtest.Job{Image: b.registry + "/absent", Script: []string{"echo must not run"}})

	record := b.ended(first)
	require.Equal(t, "success", record.State, record.Trace)
	for _, want := range []string{"process isolation", "ready in", "from the repository", "no cache", "after the script", "Job succeeded"} {
		require.Contains(t, record.Trace, want)
	}
	require.Equal(t, []string{"out/", "out/a.txt"}, zipped(t, record.Artifacts))

	record = b.ended(second)
	require.Equal(t, "success", record.State, record.Trace)
	require.Contains(t, record.Trace, "\nremembered", "the second job finds the first one's cache")

	record = b.ended(failing)
	require.Equal(t, "failed", record.State)
	require.Equal(t, gitlabtest.ScriptFailure, record.FailureReason, record.Trace)
	require.NotNil(t, record.ExitCode)
	require.Equal(t, 42, *record.ExitCode)
	require.Contains(t, record.Trace, "after the failure")

	record = b.ended(forging)
	require.Equal(t, gitlabtest.ScriptFailure, record.FailureReason, "a script's status 2 is no system failure: %s", record.Trace)

	record = b.ended(imageless)
	require.Equal(t, gitlabtest.ScriptFailure, record.FailureReason, record.Trace)
	require.Contains(t, record.Trace, "/absent")
	require.NotContains(t, record.Trace, "must not run")
	b.nothingLives()
}

func TestARealRunnersJobIsCancelled(t *testing.T) { eachLevel(t, aRealRunnersJobIsCancelled) }

func aRealRunnersJobIsCancelled(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	b.realRunner(1)
	// The runner hears of a cancel when it reports, which it does every second while there is output.
	canceled := b.queue(gitlabtest.Job{Script: []string{"(setsid sleep 1000 &)", "echo started", "while :; do echo tick; sleep 0.2; done"}})
	b.prints(canceled, "started")
	require.Len(t, b.ps(), 1)
	b.gitlab.Cancel(canceled)
	b.nothingLives()

	next := b.ended(b.queue(gitlabtest.Job{Script: []string{"echo the runner goes on"}}))
	require.Equal(t, "success", next.State, next.Trace)
}

func TestARealRunnersJobsSideBySide(t *testing.T) { eachLevel(t, aRealRunnersJobsSideBySide) }

func aRealRunnersJobsSideBySide(t *testing.T, level string) {
	const jobs = 3
	b := start(t, system.Options{Isolation: level})
	b.realRunner(jobs)
	var ids []int64
	for i := range jobs {
		ids = append(ids, b.queue(gitlabtest.Job{Script: []string{
			fmt.Sprintf("echo job-%d > /builds/mine", i), "echo waiting", "until [ -e /tmp/go ]; do sleep 0.05; done", "cat /builds/mine", "ls /builds | wc -l",
		}}))
	}
	for _, id := range ids {
		b.prints(id, "waiting")
	}
	living := map[int64]sandbox{}
	addresses := map[string]bool{}
	for _, s := range b.ps() {
		require.Equal(t, "running", s.State)
		require.Equal(t, "build_script", s.Stage)
		living[s.JobID] = s
		addresses[s.Address] = true
	}
	require.Len(t, living, jobs, "all run at once")
	require.Len(t, addresses, jobs, "each has an address of its own")
	for i, id := range ids {
		b.airlock("shell", living[id].ID, "--", "touch", "/tmp/go")
		record := b.ended(id)
		require.Equal(t, "success", record.State, record.Trace)
		require.Contains(t, record.Trace, fmt.Sprintf("\njob-%d", i))
	}
	b.nothingLives()
}
