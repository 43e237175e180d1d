package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/system"
)

// first runs a trusted job with what a container needs, and nothing more. GitLab Runner is played, because it takes minutes
// to compile the real one.
func first(ctx context.Context, m made, p *page) (err error) {
	s := &stage{made: m}
	defer func() {
		if err != nil && ctx.Err() == nil {
			p.printed("The service's last log lines", lastLines(s.serviceLog(), 20))
		}
		err = errors.Join(err, s.stop(p))
	}()
	if err := s.startAirlock(ctx, m.git, system.Options{Isolation: "process", NoMachines: true}); err != nil {
		return err
	}
	if err := s.startGitLab(ctx); err != nil {
		return err
	}
	job := s.gitlab.Adopt(s.repository.Build(gitlabtest.Job{
		ProjectPath: project, Image: s.image,
		Script: []string{"cat greeting.txt", kernelLine, "echo I am $(id -un) on $(hostname)"},
	}))
	p.say(`This process calls airlock-driver as GitLab Runner 19.4 does. The runner itself, which takes minutes to compile the first
time, has the jobs after it.`)
	p.say("The job's author wrote:")
	p.quote(yaml(job))
	driver, args := s.airlock.DriverArgs()
	ctx, cancel := context.WithTimeoutCause(ctx, jobTimeout, fmt.Errorf("it did not end within %s", jobTimeout))
	defer cancel()
	result := (&gitlabtest.Caller{Driver: driver, Args: args}).Run(ctx, job)
	p.say("The job's log:")
	p.quote(readable(result.Log))
	if !result.Success {
		return fmt.Errorf("the first job failed (%s): %w", result.Reason, errors.Join(result.Err, context.Cause(ctx)))
	}
	return nil
}
