package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/system"
)

// stage is everything that runs, and what stops it again.
type stage struct {
	made
	airlock    *system.System
	executor   int // its process id
	registry   string
	image      string
	gitlab     *gitlabtest.Coordinator
	repository gitlabtest.Repository
	runner     *gitlabtest.RealRunner

	undo []undo // in the order of the starts
}

// policy is the administrator's: people who push to a protected branch are trusted, nobody else is.
const policy = `[policy]
default = "hypervisor"

[[policy.rules]]
name      = "protected"
when      = "git.protected && !git.merge_request"
isolation = "process"
`

type undo struct {
	what string
	do   func() error
}

func (s *stage) onStop(what string, do func() error) { s.undo = append(s.undo, undo{what, do}) }

// start starts the registry, Airlock, GitLab's stand-in and the runner.
func (s *stage) start(ctx context.Context) error {
	if err := s.startAirlock(ctx, s.helper, system.Options{Policy: policy}); err != nil {
		return err
	}
	if err := s.startGitLab(ctx); err != nil {
		return err
	}
	driver, args := s.airlock.DriverArgs()
	runner, err := gitlabtest.StartRunner(context.WithoutCancel(ctx), gitlabtest.RunnerOptions{Coordinator: s.gitlab, Driver: driver, Args: args})
	if err != nil {
		return fmt.Errorf("the runner: %w", err)
	}
	s.runner = runner
	s.onStop("GitLab Runner", s.runner.Stop)
	return nil
}

// startAirlock starts the registry and Airlock. Starts that are given up half-way leave things behind, and they take but a
// moment: an interrupt waits for them.
func (s *stage) startAirlock(ctx context.Context, helper string, o system.Options) (err error) {
	if err := s.startRegistry(ctx); err != nil {
		return fmt.Errorf("the registry: %w", err)
	}
	o.Bin, o.Reachable, o.Marks, o.Registries = s.bin, true, s.marks, []string{s.registry}
	o.Config = fmt.Sprintf("helper_image = %q\nmemory = \"512m\"\nscratch_size = \"2g\"", "docker-archive:"+helper)
	if s.airlock, err = system.Start(context.WithoutCancel(ctx), o); err != nil {
		return fmt.Errorf("the service: %w", err)
	}
	s.onStop("the service with its executor, and their prefix", s.airlock.Close)
	if s.executor, err = s.airlock.ExecutorPID(); err != nil {
		return fmt.Errorf("the executor: %w", err)
	}
	return nil
}

// startGitLab starts the stand-in for GitLab, with a repository.
func (s *stage) startGitLab(ctx context.Context) (err error) {
	ctx = context.WithoutCancel(ctx)
	if s.gitlab, err = gitlabtest.StartCoordinator(s.airlock.Gateway + ":0"); err != nil {
		return fmt.Errorf("the stand-in for GitLab: %w", err)
	}
	s.onStop("the stand-in for GitLab", s.gitlab.Close)
	if s.repository, err = s.gitlab.AddRepository(ctx, project, map[string]string{"greeting.txt": "Hello from the repository\n"}); err != nil {
		return fmt.Errorf("the repository: %w", err)
	}
	return nil
}

// startRegistry serves the job image.
func (s *stage) startRegistry(ctx context.Context) error {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	s.onStop("the registry", func() error { server.Close(); return nil })
	s.registry = strings.TrimPrefix(server.URL, "http://")
	s.image = s.registry + "/demo/busybox:1"
	reference, err := name.ParseReference(s.image)
	if err != nil {
		return err
	}
	image, err := tarball.ImageFromPath(s.made.job, nil)
	if err != nil {
		return err
	}
	return remote.Write(reference, image, remote.WithContext(ctx))
}

// stop stops everything, the last first, and goes on past failures.
func (s *stage) stop(p *page) error {
	var errs []error
	for len(s.undo) > 0 {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		if err := last.do(); err != nil {
			errs = append(errs, fmt.Errorf("stopping %s: %w", last.what, err))
			continue
		}
		p.say("stopped: %s", last.what)
	}
	return errors.Join(errs...)
}

// describe tells what runs, and which of it is not what a real installation has.
func (s *stage) describe(p *page) {
	p.table([][]string{
		{"real", "airlock serve", fmt.Sprintf("process %d, in the temporary prefix %s", s.airlock.HostPID(), s.airlock.Dir)},
		{"real", "airlock-executor", fmt.Sprintf("process %d, started by the service through go-plugin", s.executor)},
		{"real", "gitlab-runner " + gitlabtest.RunnerVersion, fmt.Sprintf("process %d, which calls airlock-driver for every step of a job", s.runner.PID())},
		{"stand-in", "GitLab", s.gitlab.URL + ", jobs, logs, artifacts and git over HTTP"},
		{"stand-in", "registry", s.image},
	})
}

func (s *stage) serviceLog() string {
	if s.airlock == nil {
		return ""
	}
	return s.airlock.Log()
}

func (s *stage) runnerLog() string {
	if s.runner == nil {
		return ""
	}
	return s.runner.Log()
}
