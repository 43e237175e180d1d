package main

import (
	"context"
	"fmt"
	"time"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

const (
	// jobTarget is how many jobs of a driver that does nothing a job may cost.
	jobTarget = 2
	// handOut is how often a queued job is looked at. The runner asks for jobs once a second, and what it waits
	// until then is no driver's doing: a job's time begins when it is handed out.
	handOut = time.Millisecond
	// runnerPatience bounds one job of the real runner.
	runnerPatience = time.Minute
)

// trivialScript is the whole job, without a repository: what is measured is what stands around it.
var trivialScript = []string{"true"}

// callerJobs measures whole jobs of drivers that are called as runner 19.4 does, and each call of theirs.
func (b *bench) callerJobs(ctx context.Context) ([]*section, error) {
	s := &section{title: "a whole job, called as runner 19.4 does"}
	calls := &section{title: "where the time of a job goes, call by call"}
	noop := s.row("driver that does nothing", nil, 0)
	airlock := s.row("airlock, network nat and helper root", noop, jobTarget)
	s.note("the job's script is `true`, its image has bash; no repository, cache or artifacts. " +
		"A call's time is that of its whole process.")
	// Each call has a row for either driver, one below the other.
	rows := map[string][2]*series{}
	row := func(driver int) func(call string) *series {
		return func(call string) *series {
			if _, ok := rows[call]; !ok {
				noop := calls.row(call+", driver that does nothing", nil, 0)
				rows[call] = [2]*series{noop, calls.row(call+", airlock", noop, 0)}
			}
			return rows[call][driver]
		}
	}
	turns := []turn{
		b.callerJob(b.caller(b.noop, b.dir), noop, row(0)),
		b.callerJob(b.airlockCaller(), airlock, row(1)),
	}
	return []*section{s, calls}, rounds(ctx, b.rounds, turns, s, calls)
}

// callerJob is a turn of one job; each call's time goes to the series that rows names for it.
func (b *bench) callerJob(caller *gitlabtest.Caller, whole *series, rows func(call string) *series) turn {
	id := int64(100)
	return func(ctx context.Context) error {
		id++
		began := time.Now()
		result := caller.Run(ctx, gitlabtest.Job{ID: id, Script: trivialScript})
		whole.add(time.Since(began))
		if !result.Success {
			return jobError(result)
		}
		for _, call := range result.Calls {
			rows(call.String()).add(call.Duration)
		}
		return nil
	}
}

func jobError(result gitlabtest.Result) error {
	return fmt.Errorf("the job failed: %w\n%s%s", result.Err, result.Log, result.CleanupStderr)
}

// runnerJobs measures whole jobs of real runners: a runner and a GitLab for each executor, so that no job goes to
// the wrong one.
func (b *bench) runnerJobs(ctx context.Context) (_ []*section, err error) {
	s := &section{title: "a whole job of a real gitlab-runner"}
	noop := s.row("driver that does nothing", nil, 0)
	airlock := s.row("airlock, network nat and helper root", noop, jobTarget)
	s.note("GitLab Runner " + gitlabtest.RunnerVersion + ". From the hand-out of the job to its last update at GitLab. The driver that does " +
		"nothing runs scripts on this machine, so its job costs what the runner itself does.")
	driver, args := b.airlock.DriverArgs()
	var turns []turn
	for _, one := range []struct {
		row     *series
		options gitlabtest.RunnerOptions
	}{
		{noop, gitlabtest.RunnerOptions{Driver: b.noop, Args: []string{b.dir}}},
		{airlock, gitlabtest.RunnerOptions{Driver: driver, Args: args}},
	} {
		gitlab, err := gitlabtest.StartCoordinator("")
		if err != nil {
			return nil, err
		}
		defer func() { _ = gitlab.Close() }()
		one.options.Coordinator = gitlab
		runner, err := gitlabtest.StartRunner(ctx, one.options)
		if err != nil {
			return nil, err
		}
		defer func() { _ = runner.Stop() }()
		turns = append(turns, runnerJob(gitlab, runner, one.row))
	}
	return []*section{s}, rounds(ctx, b.rounds, turns, s)
}

// runnerJob is a turn of one job, from its hand-out to its end.
func runnerJob(gitlab *gitlabtest.Coordinator, runner *gitlabtest.RealRunner, row *series) turn {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, runnerPatience, fmt.Errorf("the job did not end within %s", runnerPatience))
		defer cancel()
		id := gitlab.Add(gitlabtest.Job{Script: trivialScript})
		for gitlab.Job(id).State == "pending" {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%w: %s", context.Cause(ctx), runner.Log())
			case <-time.After(handOut):
			}
		}
		began := time.Now()
		job, err := gitlab.Wait(ctx, id)
		row.add(time.Since(began))
		if err != nil || job.State != "success" {
			return fmt.Errorf("the job is %s (%w): %s\n%s", job.State, err, job.Trace, runner.Log())
		}
		return nil
	}
}
