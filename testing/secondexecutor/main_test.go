//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/supervisor"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

const (
	module = "github.com/airlock-ci/airlock"
	// supervised makes the test binary the real supervisor of the run directory that it names.
	supervised = "SECONDEXECUTOR_RUN_DIR"
	metrics    = "SECONDEXECUTOR_METRICS"
)

func TestMain(m *testing.M) {
	cookie := control.Handshake()
	switch {
	case os.Getenv(cookie.MagicCookieKey) == cookie.MagicCookieValue:
		main()
		os.Exit(0)
	case os.Getenv(supervised) != "":
		if err := supervise(os.Getenv(supervised)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func supervise(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return supervisor.Run(ctx, supervisor.Options{
		ConfigPath: filepath.Join(dir, "config"), ExecutorPath: os.Args[0], RunDir: filepath.Join(dir, "run"),
		MetricsAddress: os.Getenv(metrics), Logger: zerolog.New(os.Stderr), Ready: func() { fmt.Fprintln(os.Stderr, "ready") },
	})
}

// TestItNeedsTheContractAlone: it is what somebody else could write.
func TestItNeedsTheContractAlone(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, parser.ImportsOnly)
	require.NoError(t, err)
	var ours []string
	for _, i := range file.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err == nil && strings.HasPrefix(path, module) {
			ours = append(ours, strings.TrimPrefix(path, module))
		}
	}
	require.Equal(t, []string{"/api", "/api/control"}, ours)
	text, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(text, []byte("\n")), 300, "lines")
}

// rig is a service with the second executor, and the real driver.
type rig struct {
	t            *testing.T
	dir, driver  string
	supervisor   *exec.Cmd
	log          syncbuf.Buffer
	environment  []string
	stdout, errs string // of the last call
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "al-second-") // sockets' paths are limited to 107 bytes
	require.NoError(t, err)
	r := &rig{t: t, dir: dir, driver: filepath.Join(dir, "airlock-driver")}
	out, err := exec.Command("go", "build", "-o", r.driver, module+"/cmd/airlock-driver").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(r.path("config"), []byte(r.path("jobs")+"\n"), 0o600))
	require.NoError(t, os.WriteFile(r.path("response"), []byte(`{"id": 1000, "token": "none", "image": {"name": "none"},
		"job_info": {"project_id": 42}, "git_info": {"repo_url": "https://gitlab.example/group/project.git"}}`), 0o600))
	r.environment = append(os.Environ(), "JOB_RESPONSE_FILE="+r.path("response"), "BUILD_EXIT_CODE_FILE="+r.path("status"),
		"BUILD_FAILURE_EXIT_CODE=41", "SYSTEM_FAILURE_EXIT_CODE=42")
	t.Cleanup(func() {
		r.kill()
		require.NoError(t, supervisor.StopExecutor(r.path("run"), zerolog.Nop()))
		require.NoDirExists(t, r.path("jobs"), "the executor has ended in order")
		require.NoError(t, os.RemoveAll(dir))
	})
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// up starts a supervisor and waits until callers can connect.
func (r *rig) up(environment ...string) {
	r.t.Helper()
	r.supervisor = exec.Command(os.Args[0])
	r.supervisor.Env = append(append(os.Environ(), supervised+"="+r.dir), environment...)
	reader, writer, err := os.Pipe()
	require.NoError(r.t, err)
	r.supervisor.Stderr = writer
	require.NoError(r.t, r.supervisor.Start())
	require.NoError(r.t, writer.Close())
	ready := make(chan struct{})
	go func() {
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			if _, _ = fmt.Fprintln(&r.log, lines.Text()); lines.Text() == "ready" {
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		require.FailNow(r.t, "the supervisor is not ready", r.log.String())
	}
}

func (r *rig) kill() {
	_ = r.supervisor.Process.Kill()
	_ = r.supervisor.Wait()
}

// call makes a call of a runner's and returns the driver's exit code.
func (r *rig) call(arguments ...string) int {
	r.t.Helper()
	cmd := exec.Command(r.driver, arguments[0], "--socket", supervisor.DefaultSocket(r.path("run")))
	cmd.Args = append(cmd.Args, arguments[1:]...)
	cmd.Env, cmd.Dir = r.environment, r.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	r.stdout, r.errs = out.String(), errs.String()
	return cmd.ProcessState.ExitCode()
}

// stage runs a script.
func (r *rig) stage(script string) int {
	r.t.Helper()
	require.NoError(r.t, os.WriteFile(r.path("script"), []byte(script), 0o600))
	return r.call("run", r.path("script"), "build_script")
}

// prepare makes a job.
func (r *rig) prepare() {
	r.t.Helper()
	require.Zero(r.t, r.call("config"), r.errs)
	var reply struct {
		JobEnv map[string]string `json:"job_env"`
	}
	require.NoError(r.t, json.Unmarshal([]byte(r.stdout), &reply))
	for name, value := range reply.JobEnv {
		r.environment = append(r.environment, name+"="+value)
	}
	require.Zero(r.t, r.call("prepare"), r.errs)
	require.Equal(r.t, "Made a directory\n", r.stdout)
}

// TestAWholeJob runs a job as GitLab Runner does, through the real driver, supervisor and boundary.
func TestAWholeJob(t *testing.T) {
	r := newRig(t)
	r.up(metrics + "=127.0.0.1:19402")
	r.prepare()
	require.Zero(t, r.stage("echo to stdout; echo to stderr >&2; echo kept >note"), r.errs)
	require.Equal(t, "to stdout\n", r.stdout)
	require.Equal(t, "to stderr\n", r.errs)
	require.Equal(t, 41, r.stage("cat note; exit 7"))
	require.Equal(t, "kept\n", r.stdout)
	status, err := os.ReadFile(r.path("status"))
	require.NoError(t, err)
	require.Equal(t, "7\n", string(status))

	reply, err := http.Get("http://127.0.0.1:19402/metrics")
	require.NoError(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "second_jobs 1\n")

	// The supervisor is killed while a stage runs, and stays away for the next one.
	ended := make(chan int)
	go func() {
		ended <- r.stage("echo begun >begun; while [ ! -e go-on ]; do sleep 0.1; done; echo went on; exit 8")
	}()
	job, err := filepath.Glob(r.path("jobs") + "/1000-*")
	require.NoError(t, err)
	require.Len(t, job, 1)
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(job[0], "begun")); return err == nil }, 20*time.Second, 10*time.Millisecond)
	r.kill()
	require.NoError(t, os.WriteFile(filepath.Join(job[0], "go-on"), nil, 0o600))
	require.Equal(t, 41, <-ended)
	require.Equal(t, "went on\n", r.stdout)
	require.Zero(t, r.stage("cat note"), r.errs)
	r.up()
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), "attached to the executor") }, 20*time.Second, 10*time.Millisecond)
	require.Zero(t, r.stage("cat note"), r.errs)
	require.Equal(t, "kept\n", r.stdout)

	// A stop leaves the executor for its job; once that has gone, it ends it.
	require.NoError(t, r.supervisor.Process.Signal(syscall.SIGTERM))
	require.NoError(t, r.supervisor.Wait())
	require.Zero(t, r.stage("cat note"), r.errs)
	r.up()
	require.Zero(t, r.call("cleanup"), r.errs)
	require.NoDirExists(t, job[0])
	require.Zero(t, r.call("cleanup"), "a second clean-up finds nothing: %s", r.errs)
	require.Equal(t, 42, r.stage("true"))
	require.Contains(t, r.errs, "there is no job 1000-")
	require.NoError(t, r.supervisor.Process.Signal(syscall.SIGTERM))
	require.NoError(t, r.supervisor.Wait())
	require.NoDirExists(t, r.path("jobs"))
	require.NoFileExists(t, supervisor.DefaultSocket(r.path("run")))
}

// TestACleanupEndsWhatRuns: with everything that it started.
func TestACleanupEndsWhatRuns(t *testing.T) {
	r := newRig(t)
	r.up()
	r.prepare()
	other := &rig{t: t, dir: r.dir, driver: r.driver, environment: r.environment}
	ended := make(chan int)
	go func() { ended <- other.stage("echo $$ >begun; sleep 1000") }()
	job, err := filepath.Glob(r.path("jobs") + "/1000-*")
	require.NoError(t, err)
	require.Len(t, job, 1)
	var pid []byte
	require.Eventually(t, func() bool { pid, _ = os.ReadFile(filepath.Join(job[0], "begun")); return len(pid) > 0 }, 20*time.Second, 10*time.Millisecond)
	require.Zero(t, r.call("cleanup"), r.errs)
	require.Equal(t, 42, <-ended)
	require.Contains(t, other.errs, "the job was cleaned up")
	group, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return syscall.Kill(-group, 0) != nil }, 10*time.Second, 10*time.Millisecond)
}
