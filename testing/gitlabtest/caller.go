package gitlabtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// Caller plays GitLab Runner 19.4 with the custom executor. One Caller may run many jobs at once.
type Caller struct {
	// Driver is the driver's program. Every call is Driver <config|prepare|run|cleanup> Args..., for run
	// followed by the script's path and the stage.
	Driver string
	Args   []string
	// Env is the runner's own environment, which drivers inherit; nil means this process's.
	Env []string
	// RunnerEnvironment is [[runners]] environment.
	RunnerEnvironment []Variable
	// TempDir is where the runner makes its temporary directories; empty means os.TempDir.
	TempDir string

	// Attempts is how often a prepare that failed by a system failure is made; default 3.
	Attempts int
	// RetryInterval is the pause between two of them; default 3 s.
	RetryInterval time.Duration
	// GracefulKill is graceful_kill_timeout (default 10 min), ForceKill is force_kill_timeout (default 10 s).
	GracefulKill, ForceKill time.Duration
	// FinishTimeout bounds the wait for a cancelled job's last call before cleanup begins; default 5 min.
	FinishTimeout time.Duration

	// Before, Started and After are called, when not nil, around each call of the driver.
	Before, Started, After func(*Call)
	// Stdout and Stderr take the output of prepare and run when not nil, instead of the job log.
	Stdout, Stderr io.Writer
}

// Call is one call of the driver.
type Call struct {
	// Name is "config", "prepare", "run" or "cleanup"; Stage is set for run only.
	Name, Stage string
	Argv        []string
	// Env is the whole environment; of several entries with one key the last counts.
	Env []string
	// Dir is the working directory.
	Dir string
	// PID is set from Started on, ExitCode in After: -1 when a signal ended the driver.
	PID, ExitCode int
	Duration      time.Duration
}

// String returns "config" or "run build_script".
func (c *Call) String() string {
	if c.Stage != "" {
		return c.Name + " " + c.Stage
	}
	return c.Name
}

// Reasons for which a job fails, by GitLab's names.
const (
	ScriptFailure  = "script_failure"
	SystemFailure  = "runner_system_failure"
	JobCanceled    = "job_canceled"
	JobTimeout     = "job_execution_timeout"
	successMessage = "Job succeeded"
)

// Result is how a job ended.
type Result struct {
	// Success is true when the job succeeded; else Reason and Err say why it did not.
	Success bool
	Reason  string
	Err     error
	// ExitCode is that of the script that failed, when Reason is ScriptFailure.
	ExitCode int
	// Log is the job's log: config's stderr, the output of prepare and run, and the runner's closing words.
	Log string
	// CleanupStdout and CleanupStderr are cleanup's output, which the runner keeps in its own log.
	CleanupStdout, CleanupStderr string
	// Calls are all calls of the driver, in the order in which they ended.
	Calls []*Call
}

// Stages returns the stages that were run, in order.
func (r Result) Stages() []string {
	var stages []string
	for _, call := range r.Calls {
		if call.Stage != "" {
			stages = append(stages, call.Stage)
		}
	}
	return stages
}

// Run runs a job to its end. A ctx that ends is a shutdown of the runner: the job is force-cancelled.
func (c *Caller) Run(ctx context.Context, job Job) Result { return c.Start(ctx, job).Wait() }

// Start begins to run a job.
func (c *Caller) Start(ctx context.Context, job Job) *Execution {
	e := &Execution{caller: c.filled(), done: make(chan struct{})}
	e.build = &build{Job: job.filled(), runnerEnvironment: c.RunnerEnvironment, correlationID: correlationID()}
	e.build.refresh()
	ctx, e.abort = context.WithCancelCause(ctx)
	e.setCancel(e.abort)
	go func() {
		defer close(e.done)
		e.finish(e.run(ctx))
	}()
	return e
}

// Execution is one running job.
type Execution struct {
	caller *Caller
	build  *build
	abort  context.CancelCauseFunc
	done   chan struct{}

	log, cleanupStdout, cleanupStderr syncbuf.Buffer

	mu     sync.Mutex
	cancel context.CancelCauseFunc
	result Result
}

// Wait returns the job's result once the last call of the driver has ended.
func (e *Execution) Wait() Result {
	<-e.done
	return e.result
}

// Cancel is the button in GitLab: while the author's script runs, only that is ended, and after_script and
// what follows still run; before that, the whole job is ended.
func (e *Execution) Cancel() {
	e.mu.Lock()
	cancel := e.cancel
	e.mu.Unlock()
	cancel(errCanceled)
}

// Abort is a forced cancel: the whole job is ended.
func (e *Execution) Abort() { e.abort(errCanceled) }

// Log returns the job's log so far.
func (e *Execution) Log() string { return e.log.String() }

func (e *Execution) setCancel(cancel context.CancelCauseFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancel = cancel
}

func (e *Execution) record(call *Call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.result.Calls = append(e.result.Calls, call)
}

func (c *Caller) filled() *Caller {
	filled := *c
	if filled.Env == nil {
		filled.Env = os.Environ()
	}
	if filled.Attempts == 0 {
		filled.Attempts = 3
	}
	for field, value := range map[*time.Duration]time.Duration{
		&filled.RetryInterval: 3 * time.Second,
		&filled.GracefulKill:  10 * time.Minute,
		&filled.ForceKill:     10 * time.Second,
		&filled.FinishTimeout: 5 * time.Minute,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return &filled
}

func correlationID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}
