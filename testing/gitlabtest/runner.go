package gitlabtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// RealRunner is a running GitLab Runner 19.4.0 whose custom executor calls a driver.
type RealRunner struct {
	cmd  *exec.Cmd
	dir  string
	log  syncbuf.Buffer
	done chan struct{}
}

// RunnerOptions say what a RealRunner runs.
type RunnerOptions struct {
	Coordinator *Coordinator
	// Driver is the driver's program, called with config, prepare, run or cleanup and Args.
	Driver string
	Args   []string
	// Concurrent is how many jobs run at once; default 1.
	Concurrent int
	// Env is added to this process's environment for the runner and so for the driver.
	Env []string
	// Settings are further lines of [[runners]] in config.toml, tables last.
	Settings string
}

// StartRunner builds the runner when needed (BuildRunner) and starts it. Its directory, which holds its HOME and TMPDIR,
// goes with Stop.
func StartRunner(ctx context.Context, o RunnerOptions) (*RealRunner, error) {
	runner, err := BuildRunner(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gitlabtest-runner-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte(o.config()), 0o600); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r := &RealRunner{dir: dir, done: make(chan struct{})}
	r.cmd = exec.Command(runner, "run", "--config", config, "--working-directory", dir)
	r.cmd.Env = append(append(os.Environ(), o.Env...), "HOME="+dir, "TMPDIR="+dir)
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	r.cmd.WaitDelay = time.Second // a runner that was killed leaves drivers, which hold its streams
	ownProcessGroup(r.cmd)
	if err := r.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() { defer close(r.done); _ = r.cmd.Wait() }()
	return r, nil
}

// config is the runner's config.toml.
func (o RunnerOptions) config() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "concurrent = %d\ncheck_interval = 1\n\n[[runners]]\n", max(1, o.Concurrent))
	_, _ = fmt.Fprintf(&b, "  name = \"gitlabtest\"\n  url = %q\n  token = \"runner-token\"\n  executor = \"custom\"\n", o.Coordinator.URL)
	_, _ = fmt.Fprintf(&b, "  request_concurrency = %d\n%s\n  [runners.custom]\n", max(1, o.Concurrent), o.Settings)
	for _, call := range []string{"config", "prepare", "run", "cleanup"} {
		args := []string{fmt.Sprintf("%q", call)}
		for _, arg := range o.Args {
			args = append(args, fmt.Sprintf("%q", arg))
		}
		_, _ = fmt.Fprintf(&b, "    %s_exec = %q\n    %[1]s_args = [%[3]s]\n", call, o.Driver, strings.Join(args, ", "))
	}
	return b.String()
}

// PID is the runner's process id.
func (r *RealRunner) PID() int { return r.cmd.Process.Pid }

// Log returns what the runner has logged so far.
func (r *RealRunner) Log() string { return r.log.String() }

// Quit asks the runner to take no more jobs and to end when those it has are done.
func (r *RealRunner) Quit() error { return quit(r.cmd.Process) }

// Kill ends the runner as a crash would: the drivers that it has called go on.
func (r *RealRunner) Kill() error {
	err := r.cmd.Process.Kill()
	<-r.done
	return err
}

// Wait returns when the runner has ended, or an error when it does not in time.
func (r *RealRunner) Wait(patience time.Duration) error {
	select {
	case <-r.done:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the runner did not end within %s", patience)
	}
}

// Stop asks the runner to end, which aborts its jobs, forces it when it does not within 30 seconds, and
// removes its directory.
func (r *RealRunner) Stop() error {
	defer func() { _ = os.RemoveAll(r.dir) }()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := r.Wait(30 * time.Second)
	if err != nil {
		killGroup(r.cmd)
		<-r.done
	}
	return err
}

// The runner that BuildRunner builds: a version, its commit, and the nested module that pins it.
const (
	RunnerVersion  = "19.4.0"
	runnerRevision = "fc1f1862"
	runnerModule   = "testing/gitlabtest/runner19"
)

// BuildRunner returns a statically linked gitlab-runner: GitLab Runner 19.4.0 with the custom executor alone
// (testing/gitlabtest/runner19). It is built on first use, which takes some minutes once per machine.
func BuildRunner(ctx context.Context) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, runnerModule)
	key, err := hashOf(dir)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("gitlab-runner-%s-%s-%s-%x", RunnerVersion, runtime.GOARCH, runtime.Version(), key)
	return Cached(ctx, name, func(ctx context.Context, path string) error {
		const common = "gitlab.com/gitlab-org/gitlab-runner/common"
		return goBuild(ctx, dir, path, fmt.Sprintf("-X %s.VERSION=%s -X %[1]s.REVISION=%[3]s", common, RunnerVersion, runnerRevision))
	})
}

// hashOf is a short hash of all files below a directory, with their names.
func hashOf(dir string) ([]byte, error) {
	key := sha256.New()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		_, _ = fmt.Fprintf(key, "%s %d\n%s", name, len(content), content)
		return err
	})
	return key.Sum(nil)[:6], err
}

// goBuild builds the program of a module's root directory.
func goBuild(ctx context.Context, dir, output, ldflags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w "+ldflags, "-o", output, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", dir, err, out)
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
