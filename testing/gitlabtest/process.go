package gitlabtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// call calls the driver once and waits until it has ended and every holder of its output has closed it. When
// ctx ends, the driver's process group is asked to end, and later forced.
func (a *attempt) call(ctx context.Context, call *Call, stdout, stderr io.Writer, args ...string) error {
	call.Argv = append(append([]string{a.caller.Driver, call.Name}, a.caller.Args...), args...)
	call.Env, call.Dir = a.environment(), a.dir
	if a.caller.Before != nil {
		a.caller.Before(call)
	}
	cmd := exec.Command(call.Argv[0], call.Argv[1:]...)
	cmd.Dir, cmd.Env = call.Dir, call.Env
	cmd.Stdout, cmd.Stderr = writerOnly{stdout}, writerOnly{stderr}
	ownProcessGroup(cmd)
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("failed to start command: %w", err)
	}
	call.PID = cmd.Process.Pid
	if a.caller.Started != nil {
		a.caller.Started(call)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err := a.wait(ctx, cmd, ended)
	call.Duration, call.ExitCode = time.Since(started), -1
	if !errors.Is(err, errDormant) { // else Wait is still at work on the state
		call.ExitCode = cmd.ProcessState.ExitCode()
	}
	a.record(call)
	if a.caller.After != nil {
		a.caller.After(call)
	}
	return a.failure(err)
}

// errDormant says that a driver outlived its SIGKILL, or that someone kept its output open.
var errDormant = errors.New("failed to kill process, likely process is dormant")

func (a *attempt) wait(ctx context.Context, cmd *exec.Cmd, ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	terminateGroup(cmd)
	select {
	case err := <-ended:
		return err
	case <-time.After(a.caller.GracefulKill):
	}
	killGroup(cmd)
	select {
	case err := <-ended:
		return err
	case <-time.After(a.caller.ForceKill):
		return errDormant
	}
}

// failure maps how a driver ended to what the runner makes of it.
func (a *attempt) failure(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	switch code := exit.ExitCode(); code {
	case buildFailureExitCode:
		return a.buildFailure(err)
	case systemFailureExitCode:
		return err
	default:
		return fmt.Errorf("unknown Custom executor executable exit code %d; executable execution terminated with: %w", code, err)
	}
}

// buildFailure reads the status that the driver may have left.
func (a *attempt) buildFailure(exit error) error {
	file, err := os.Open(a.exitCodeFile())
	if err != nil {
		return &buildError{reason: ScriptFailure, exitCode: buildFailureExitCode, message: exit.Error()}
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Scan()
	code, err := strconv.Atoi(lines.Text())
	if err != nil {
		return fmt.Errorf("unknown Custom executor executable exit code %d; executable execution terminated with: %w", systemFailureExitCode, exit)
	}
	return &buildError{reason: ScriptFailure, exitCode: code, message: fmt.Sprintf("exit status %d", code)}
}

// writerOnly hides a file from os/exec, which would hand it down instead of a pipe: the runner always has a
// pipe, and by it learns when the last holder has gone.
type writerOnly struct{ io.Writer }
