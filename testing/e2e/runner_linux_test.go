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

// patience is how long a job of a real runner may take, emulated machines and slow hosts included.
const patience = 3 * time.Minute

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
	ctx, cancel := context.WithTimeoutCause(b.t.Context(), patience, context.DeadlineExceeded)
	defer cancel()
	record, err := b.gitlab.Wait(ctx, id)
	require.NoError(b.t, err, record.Trace)
	return record
}

// prints waits until a queued job has printed text at the start of a line.
func (b *bench) prints(id int64, text string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return strings.Contains(b.gitlab.Job(id).Trace, "\n"+text) }, patience, 20*time.Millisecond,
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

// TestARunnerThatEnds has the runner stop in the ways that an administrator or a crash stops it, and the service restart
// under a job.
func TestARunnerThatEnds(t *testing.T) {
	b := start(t, system.Options{LeaveExecutor: true, Config: "orphan_timeout = \"2s\"\n"})
	waiting := func() int64 {
		id := b.queue(gitlabtest.Job{
			Script:      []string{"echo waiting", "until [ -e /tmp/go ]; do sleep 0.1; done", "echo went on"},
			AfterScript: []string{"echo and after"},
		})
		b.prints(id, "waiting")
		return id
	}
	goOn := func(id int64) gitlabtest.JobRecord {
		b.airlock("shell", fmt.Sprint(id), "--", "touch", "/tmp/go")
		record := b.ended(id)
		require.Equal(t, "success", record.State, record.Trace)
		require.Contains(t, record.Trace, "\nwent on")
		require.Contains(t, record.Trace, "\nand after")
		return record
	}

	runner := b.realRunner(2)
	id := waiting()
	require.NoError(t, b.Stop())
	require.NoError(t, b.StartHost(t.Context()))
	goOn(id) // the service was restarted under it

	id = waiting()
	require.NoError(t, runner.Quit()) // SIGQUIT: no more jobs, but those that run
	require.Error(t, runner.Wait(time.Second), "the runner ended with a job of its own")
	goOn(id)
	require.NoError(t, runner.Wait(time.Minute))
	b.nothingLives()

	runner = b.realRunner(2)
	id = waiting()
	require.NoError(t, runner.Kill())
	b.nothingLives() // neither sandbox nor what the runner would have cleaned up
	require.Equal(t, "running", b.gitlab.Job(id).State, "nobody told GitLab")

	b.realRunner(2)
	next := b.ended(b.queue(gitlabtest.Job{Script: []string{"echo the next runner works"}}))
	require.Equal(t, "success", next.State, next.Trace)
	b.requireSound(t)
}
