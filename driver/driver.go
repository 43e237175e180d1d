package driver

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

// The calls of a custom executor, as they are named in a runner's config.toml.
const (
	Config  = "config"
	Prepare = "prepare"
	Run     = "run"
	Cleanup = "cleanup"
)

// Driver handles one call.
type Driver struct {
	// Version is the release's, for the job log.
	Version string
	// Socket is the executor's address: a unix socket's path, on Windows a pipe's.
	Socket string
	// RunnerClass is what the administrator wrote into this runner's configuration; may be empty.
	RunnerClass string
	// Shell is the kind of scripts that the runner is asked to write; empty means DefaultShell.
	Shell string
	// Env is the runner's word.
	Env gitlab.Environment
	// Dir is the working directory, which the runner made for this attempt.
	Dir string
	// Parent is the process that called the driver, ordinarily the runner. The executor watches it, and the
	// driver ends what it runs when it is gone: a runner that is killed leaves its drivers running.
	Parent int
	// Stdout and Stderr are the runner's pipes. Writes to them may block for as long as the runner likes.
	Stdout, Stderr io.Writer
	// Signals are those that ask the driver to end. The first is passed on as a request to end gracefully,
	// every further one as an order to end at once.
	Signals <-chan os.Signal
}

// Do handles the call of the given name and returns the exit code for the runner. args are the script's path
// and the stage (run only). What went wrong is told on Stderr, in one line.
func (d *Driver) Do(ctx context.Context, call string, args ...string) int {
	err := d.removeExitCode()
	if err == nil {
		err = d.do(ctx, call, args)
	}
	var failure *scriptFailure
	if errors.As(err, &failure) {
		if err = d.writeExitCode(failure.status); err == nil {
			return d.Env.BuildFailure
		}
	}
	if err != nil {
		d.say(err)
	}
	return d.exitCode(call, err)
}

func (d *Driver) do(ctx context.Context, call string, args []string) error {
	switch {
	case call == Config && len(args) == 0:
		return d.config()
	case call == Prepare && len(args) == 0:
		return d.prepare(ctx)
	case call == Run && len(args) == 2:
		return d.run(ctx, args[0], args[1])
	case call == Cleanup && len(args) == 0:
		return d.cleanup(ctx)
	default:
		return fault.WithRemedy(fault.Adminf("%q with %d arguments is no call of a custom executor", call, len(args)),
			"see airlock-driver --help for the lines that config.toml needs")
	}
}

// say writes an error as one line to the job log (cleanup: to the runner's log).
func (d *Driver) say(err error) {
	line := strings.Join(strings.Fields(err.Error()), " ")
	_, _ = io.WriteString(d.Stderr, "airlock: "+line+"\n")
}

// exitCode maps an error to the code that makes the runner do the right thing. A build failure is final; a
// system failure in config and prepare is retried, which cannot change an administrator's refusal. Later, an
// administrator's fault is not the author's to see as a failed script.
func (d *Driver) exitCode(call string, err error) int {
	switch class := fault.ClassOf(err); {
	case err == nil:
		return fault.ExitOK
	case class == fault.Author, class == fault.Admin && (call == Config || call == Prepare):
		return d.Env.BuildFailure
	default:
		return d.Env.SystemFailure
	}
}
