package gitlabtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// RealRunner is a running gitlab-runner 12.8 whose custom executor calls a driver through the shim. Unlike
// 19.4 it signals the driver's process alone, not its group, and has no graceful cancel.
type RealRunner struct {
	cmd  *exec.Cmd
	dir  string
	log  syncbuf.Buffer
	done chan error
}

// RunnerOptions say what a RealRunner runs.
type RunnerOptions struct {
	Coordinator *Coordinator
	// Driver is the driver's program, called with config, prepare, run or cleanup and Args.
	Driver string
	Args   []string
	// Executor is "custom" by default; "shell" runs jobs on this machine without the driver.
	Executor string
	// Concurrent is how many jobs run at once; default 1.
	Concurrent int
	// Env is added to this process's environment for the runner and so for the driver.
	Env []string
}

// StartRunner builds the runner and the shim when needed (a minute, once per machine) and starts the runner.
// Its directory, which holds its HOME and TMPDIR, goes with Stop.
func StartRunner(ctx context.Context, o RunnerOptions) (*RealRunner, error) {
	runner, err := BuildRunner(ctx)
	if err != nil {
		return nil, err
	}
	shim, err := buildShim(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gitlabtest-runner-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(o.config(shim)), 0o600); err != nil {
		return nil, err
	}
	r := &RealRunner{dir: dir, done: make(chan error, 1)}
	r.cmd = exec.Command(runner, "run", "--config", config, "--working-directory", dir)
	// Version 12.8 leaves its jobs' temporary directories behind: they go with this one.
	r.cmd.Env = append(append(os.Environ(), o.Env...), "HOME="+dir, "TMPDIR="+dir)
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	ownProcessGroup(r.cmd)
	if err := r.cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	go func() { r.done <- r.cmd.Wait() }()
	return r, nil
}

// config is the runner's config.toml.
func (o RunnerOptions) config(shim string) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "concurrent = %d\ncheck_interval = 1\n\n[[runners]]\n", max(1, o.Concurrent))
	_, _ = fmt.Fprintf(&b, "  name = \"gitlabtest\"\n  url = %q\n  token = \"runner-token\"\n  executor = %q\n  shell = \"bash\"\n",
		o.Coordinator.URL, or(o.Executor, "custom"))
	b.WriteString("  [runners.custom]\n")
	for _, call := range []string{"config", "prepare", "run", "cleanup"} {
		args := append([]string{o.Coordinator.URL, o.Driver, call}, o.Args...)
		quoted := make([]string, len(args))
		for i, arg := range args {
			quoted[i] = fmt.Sprintf("%q", arg)
		}
		_, _ = fmt.Fprintf(&b, "    %s_exec = %q\n    %[1]s_args = [%[3]s]\n", call, shim, strings.Join(quoted, ", "))
	}
	return b.String()
}

// PID is the runner's process id.
func (r *RealRunner) PID() int { return r.cmd.Process.Pid }

// Log returns what the runner has logged so far.
func (r *RealRunner) Log() string { return r.log.String() }

// Stop asks the runner to end, which aborts its jobs, forces it when it does not within 30 seconds, and
// removes its directory.
func (r *RealRunner) Stop() error {
	defer func() { _ = os.RemoveAll(r.dir) }()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-time.After(30 * time.Second):
		killGroup(r.cmd)
		<-r.done
		return errors.New("the runner did not end within 30 s and was killed")
	}
}

// runnerModule is the nested module that pins the runner.
const runnerModule = "testing/gitlabtest/runner12"

// BuildRunner returns a statically linked gitlab-runner 12.8, built on first use.
func BuildRunner(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, runnerModule)
	key := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		_, _ = key.Write(content)
	}
	name := fmt.Sprintf("gitlab-runner-12.8-%s-%s-%x", runtime.GOARCH, runtime.Version(), key.Sum(nil)[:6])
	return Cached(ctx, name, func(ctx context.Context, path string) error {
		return goBuild(ctx, dir, path, "gitlab.com/gitlab-org/gitlab-runner",
			"-X gitlab.com/gitlab-org/gitlab-runner/common.VERSION=12.8.0-gitlabtest")
	})
}

func buildShim(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	// The go command keeps the build; only the link is repeated. Replacing the file by a rename lets a shim
	// that another process is running be.
	path := filepath.Join(dir, fmt.Sprintf("shim-%d", os.Getpid()))
	if err := goBuild(ctx, root, path, "./testing/gitlabtest/shim", ""); err != nil {
		return "", err
	}
	final := filepath.Join(dir, "gitlabtest-shim")
	return final, os.Rename(path, final)
}

func goBuild(ctx context.Context, dir, output, pkg, ldflags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w "+ldflags, "-o", output, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	return nil
}

// moduleRoot is the directory of Airlock's sources, from anywhere inside it.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/airlock-ci/airlock").Output()
	if err != nil {
		return "", fmt.Errorf("finding Airlock's sources: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
