package gitlabtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gitlab.com/gitlab-org/gitlab-runner/executors/custom/api"
)

// Exit codes that the runner announces to drivers.
const (
	buildFailureExitCode  = 1
	systemFailureExitCode = 2
)

// attempt is one prepare attempt with its temporary directory; the job's stages run in the one that succeeded.
type attempt struct {
	*Execution
	dir    string
	jobEnv map[string]string
}

func (e *Execution) newAttempt() (*attempt, error) {
	dir, err := os.MkdirTemp(e.caller.TempDir, "custom-executor")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "response.json"), e.build.response(), 0o600); err != nil {
		return nil, err
	}
	return &attempt{Execution: e, dir: dir}, nil
}

// prepare calls config and prepare.
func (a *attempt) prepare(ctx context.Context) error {
	a.build.rootDir, a.build.cacheDir, a.build.hostname = "", "", ""
	a.build.refresh()
	var reply bytes.Buffer
	if err := a.call(ctx, &Call{Name: "config"}, &reply, &a.log); err != nil {
		return err
	}
	if err := a.configure(reply.Bytes()); err != nil {
		return err
	}
	return a.call(ctx, &Call{Name: "prepare"}, a.stdout(), a.stderr())
}

// configure takes over config's reply.
func (a *attempt) configure(reply []byte) error {
	var config api.ConfigExecOutput
	if len(reply) > 0 {
		if err := json.Unmarshal(reply, &config); err != nil {
			return fmt.Errorf("error while parsing JSON output: %w", err)
		}
	}
	name := ""
	if config.Driver != nil && config.Driver.Name != nil {
		name = " with driver " + *config.Driver.Name
		if config.Driver.Version != nil {
			name += " " + *config.Driver.Version
		}
	}
	a.say("Using Custom executor%s...", name)
	if config.JobEnv != nil {
		a.jobEnv = *config.JobEnv
	}
	if config.BuildsDir == nil || config.CacheDir == nil {
		return &buildError{reason: SystemFailure, message: "the builds_dir and cache_dir must be set"}
	}
	a.build.rootDir, a.build.cacheDir = *config.BuildsDir, *config.CacheDir
	if config.Hostname != nil {
		a.build.hostname = *config.Hostname
	}
	a.build.refresh()
	return nil
}

// stage writes a stage's script to a file and has the driver run it. A stage without a script succeeds.
func (a *attempt) stage(ctx context.Context, stage string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	script := a.build.script(stage)
	if script == "" {
		return nil
	}
	dir, err := os.MkdirTemp(a.dir, "script")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		return err
	}
	return a.call(ctx, &Call{Name: "run", Stage: stage}, a.stdout(), a.stderr(), file, stage)
}

// cleanup calls cleanup, whose failure is but a warning, and removes the directory.
func (a *attempt) cleanup() {
	defer func() { _ = os.RemoveAll(a.dir) }()
	err := a.call(context.Background(), &Call{Name: "cleanup"}, &a.cleanupStdout, &a.cleanupStderr)
	if err != nil {
		_, _ = fmt.Fprintf(&a.cleanupStderr, "Cleanup script failed: %v\n", err)
	}
}

func (a *attempt) stdout() io.Writer {
	if a.caller.Stdout != nil {
		return a.caller.Stdout
	}
	return &a.log
}

func (a *attempt) stderr() io.Writer {
	if a.caller.Stderr != nil {
		return a.caller.Stderr
	}
	return &a.log
}

// environment is a call's whole environment in the runner's order; of two entries with one key the later wins.
func (a *attempt) environment() []string {
	env := append([]string{}, a.caller.Env...)
	for key, value := range map[string]string{
		"TMPDIR":                          a.dir,
		api.BuildFailureExitCodeVariable:  strconv.Itoa(buildFailureExitCode),
		api.SystemFailureExitCodeVariable: strconv.Itoa(systemFailureExitCode),
		api.BuildCodeFileVariable:         a.exitCodeFile(),
		api.JobResponseFileVariable:       filepath.Join(a.dir, "response.json"),
	} {
		env = append(env, key+"="+value)
	}
	for key, value := range a.jobEnv {
		env = append(env, key+"="+value)
	}
	for _, v := range append(slices.Clone(a.build.vars()), a.build.servicesVariable()) {
		env = append(env, "CUSTOM_ENV_"+v.Key+"="+v.Value)
	}
	return env
}

func (a *attempt) exitCodeFile() string { return filepath.Join(a.dir, "build_exit_code") }
