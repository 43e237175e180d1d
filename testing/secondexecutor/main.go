//go:build linux

// Command secondexecutor is an executor that is not Airlock's own: the worked example of docs/contract.md. It runs each
// job's scripts as plain processes in a directory of the job's, and isolates nothing: it is for tests alone.
//
// Of Airlock it imports nothing but the contract. Its configuration file holds one line, the directory of the jobs.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/api/control"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "secondexecutor: %v\n", err)
		os.Exit(1)
	}
}

// run is the executor's life: alone on its state, remove what a predecessor left, serve, end every job.
func run() error {
	args, err := control.ParseArgs(os.Args[1:])
	if err != nil {
		return err
	}
	lock, err := control.Begin(args)
	if err != nil {
		return err
	}
	defer lock.Release()
	config, err := os.ReadFile(args.Config)
	if err != nil {
		return err
	}
	e := &executor{root: strings.TrimSpace(string(config)), instance: rand.Text(), jobs: map[string]*job{}}
	if err := os.RemoveAll(e.root); err != nil {
		return err
	}
	if err := os.Mkdir(e.root, 0o700); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(e.root) }()
	// What it logs goes to the stderr that the supervisor reads; go-plugin puts its own in its place.
	e.server = control.NewServer(e, control.OpenSockets, zerolog.New(os.Stderr).With().Timestamp().Logger())
	return e.server.Serve(context.Background(), args.TLSDir)
}

// executor is a control.Executor.
type executor struct {
	root, instance string
	server         *control.Server

	mu   sync.Mutex
	jobs map[string]*job // by handle
}

// job is a job's directory. Its stages run one after the other.
type job struct {
	dir   string
	stage sync.Mutex
	end   context.CancelCauseFunc // of its stages
	life  context.Context         //nolint:containedctx // it is what a clean-up ends
}

var errCleanedUp = errors.New("the job was cleaned up")

// What follows is asked for by control.Server, which is told of no job.

func (e *executor) Version() api.Version {
	return api.Version{Protocol: api.ProtocolVersion, Version: "second", Instance: e.instance}
}

func (e *executor) Sandboxes(context.Context) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.jobs), nil
}

func (e *executor) Reload(context.Context) error { return nil }

func (e *executor) Metrics() ([]byte, error) {
	n, _ := e.Sandboxes(context.Background())
	return fmt.Appendf(nil, "# TYPE second_jobs gauge\nsecond_jobs %d\n", n), nil
}

func (e *executor) Events(ctx context.Context, _ func([]byte) error) error { <-ctx.Done(); return nil }

// Serve serves one connection. A caller that may open the socket may drive jobs, and this executor knows no other
// calls: it need not ask who calls.
func (e *executor) Serve(conn net.Conn, _ *control.Listener) {
	api.ServeConn(conn, e.server.Greet, func(ctx context.Context, call *api.Call) (int, error) {
		if call.Op == api.OpCleanup { // it is done although its caller goes
			ctx = context.WithoutCancel(ctx)
		}
		ctx, finish, err := e.server.Begin(ctx, true)
		if err != nil {
			return 0, err
		}
		defer finish()
		switch call.Op {
		case api.OpPrepare:
			return 0, e.prepare(call)
		case api.OpRun:
			return e.run(ctx, call)
		case api.OpCleanup:
			return 0, e.cleanup(call)
		default:
			return 0, api.Administrator(fmt.Errorf("this executor knows no call %q", call.Op))
		}
	})
}

// handles are what a directory may be called by.
var handles = regexp.MustCompile(`^[0-9]+-[0-9a-f]{32}$`)

// prepare makes a job's directory. Its data is the job response, which this executor does not need.
func (e *executor) prepare(call *api.Call) error {
	var req api.Prepare
	if err := call.Decode(&req); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, call.Stdin); err != nil {
		return fmt.Errorf("receiving the job response: %w", err)
	}
	if !handles.MatchString(req.Handle) {
		return fmt.Errorf("%q is no handle", req.Handle)
	}
	j := &job{dir: filepath.Join(e.root, req.Handle)}
	j.life, j.end = context.WithCancelCause(context.Background())
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.jobs[req.Handle] != nil {
		return fmt.Errorf("job %s is prepared already", req.Handle)
	}
	if err := os.Mkdir(j.dir, 0o700); err != nil {
		return err
	}
	e.jobs[req.Handle] = j
	_, err := fmt.Fprintln(call.Stdout, "Made a directory")
	return err
}

// run runs the script of one stage and returns its status.
func (e *executor) run(ctx context.Context, call *api.Call) (int, error) {
	var req api.Run
	if err := call.Decode(&req); err != nil {
		return 0, err
	}
	script, err := io.ReadAll(io.LimitReader(call.Stdin, api.MaxScript+1))
	if err != nil {
		return 0, fmt.Errorf("receiving the script: %w", err)
	}
	if len(script) > api.MaxScript {
		return 0, api.Author(errors.New("the script is too large"))
	}
	e.mu.Lock()
	j := e.jobs[req.Handle]
	e.mu.Unlock()
	if j == nil {
		return 0, fmt.Errorf("there is no job %s", req.Handle)
	}
	return j.run(ctx, script, call.Streams)
}

func (j *job) run(ctx context.Context, script []byte, streams api.Streams) (int, error) {
	j.stage.Lock()
	defer j.stage.Unlock()
	file := filepath.Join(j.dir, ".script")
	if err := os.WriteFile(file, script, 0o600); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(j.life, func() { cancel(context.Cause(j.life)) })()

	cmd := exec.CommandContext(ctx, "bash", file)
	cmd.Dir, cmd.Env = j.dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.dir}
	cmd.Stdout, cmd.Stderr = streams.Stdout, streams.Stderr
	// The kernel kills it with this thread, so with this process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for those who hold the output open
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for signal := range streams.Signals { // it ends with the call
			_ = syscall.Kill(-cmd.Process.Pid, syscall.Signal(signal))
		}
	}()
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	default:
		return 0, err
	}
}

// cleanup ends what a job runs and removes its directory. There may be none.
func (e *executor) cleanup(call *api.Call) error {
	var req api.Cleanup
	if err := call.Decode(&req); err != nil {
		return err
	}
	e.mu.Lock()
	j := e.jobs[req.Handle]
	e.mu.Unlock()
	if j == nil {
		return nil
	}
	j.end(errCleanedUp)
	j.stage.Lock()
	defer j.stage.Unlock()
	if err := os.RemoveAll(j.dir); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.jobs, req.Handle)
	return nil
}
