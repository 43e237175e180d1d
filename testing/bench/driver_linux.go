package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// driverTarget is how many empty programs a call of the driver may cost.
const driverTarget = 3

// driverCalls measures whole calls of the driver, with the environment and the directory of a real job, while that
// job's sandbox is ready: between its prepare and its first stage.
func (b *bench) driverCalls(ctx context.Context) ([]*section, error) {
	s := &section{title: "a driver call, the whole process"}
	var measured error
	caller := b.airlockCaller()
	caller.After = func(call *gitlabtest.Call) {
		if call.Name == "prepare" && call.ExitCode == 0 {
			measured = b.callDriver(ctx, s, call)
		}
	}
	if result := caller.Run(ctx, gitlabtest.Job{ID: 1, Script: []string{"true"}}); !result.Success {
		return nil, jobError(result)
	}
	return []*section{s}, measured
}

// callDriver measures the calls in the place of a prepared job's next call.
func (b *bench) callDriver(ctx context.Context, s *section, prepared *gitlabtest.Call) error {
	script := filepath.Join(prepared.Dir, "empty-script")
	if err := os.WriteFile(script, []byte("#!/usr/bin/env bash\n"), 0o700); err != nil {
		return err
	}
	driver, args := b.airlock.DriverArgs()
	empty := s.row("empty Go program", nil, 0)
	config := s.row("config", empty, driverTarget)
	cleanup := s.row("cleanup of a job without a sandbox", empty, driverTarget)
	noop := s.row("driver that does nothing: run of an empty script", empty, 0)
	run := s.row("run of an empty script", noop, driverTarget)
	s.note("all calls have the environment of a job. cleanup makes the whole way to the executor and back. run also " +
		"starts bash, in the sandbox, and waits for its end: so it is compared with the driver that does nothing, " +
		"which is a Go program that turns into bash.")

	call := func(row *series, program string, args ...string) turn {
		return func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Dir, cmd.Env = prepared.Dir, prepared.Env
			if row == cleanup { // of a job of its own, which was never prepared
				cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], gitlab.HandleVariable+"="+string(gitlab.NewHandle(2)))
			}
			took, err := timed(ctx, cmd)
			row.add(took)
			return err
		}
	}
	return rounds(ctx, b.rounds, []turn{
		call(empty, b.empty),
		call(config, driver, append([]string{"config"}, args...)...),
		call(cleanup, driver, append([]string{"cleanup"}, args...)...),
		call(noop, b.noop, "run", b.dir, script, "build_script"),
		call(run, driver, append(append([]string{"run"}, args...), script, "build_script")...),
	}, s)
}
