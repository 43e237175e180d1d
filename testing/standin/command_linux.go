package standin

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"

	"github.com/airlock-ci/airlock/api"
)

// session is the command of a sandbox or a shell.
type session struct {
	command []string
	env     []string
	tty     bool
	size    *api.Resize
}

// runCommand runs a session's command as a process of this machine until it ends or the caller is gone.
func runCommand(ctx context.Context, s session, streams api.Streams) (int, error) {
	if len(s.command) == 0 {
		s.command = []string{"sh"}
	}
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if s.tty {
		return runOnTerminal(ctx, cmd, s.size, streams)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = streams.Stdout, streams.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, api.Author(err)
	}
	go func() {
		_, _ = io.Copy(stdin, streams.Stdin)
		_ = stdin.Close()
	}()
	go forwardSignals(cmd, streams.Signals)
	return status(ctx, cmd.Wait())
}

func runOnTerminal(ctx context.Context, cmd *exec.Cmd, size *api.Resize, streams api.Streams) (int, error) {
	terminal, err := pty.StartWithSize(cmd, winsize(size)) // in a session of its own
	if err != nil {
		return 0, api.Author(err)
	}
	defer func() { _ = terminal.Close() }()
	go func() { _, _ = io.Copy(terminal, streams.Stdin) }()
	go forwardSignals(cmd, streams.Signals)
	go func() {
		for size := range streams.Resizes {
			_ = pty.Setsize(terminal, winsize(size))
		}
	}()
	_, _ = io.Copy(streams.Stdout, terminal) // ends with EIO when the last process closes its side
	return status(ctx, cmd.Wait())
}

func winsize(size *api.Resize) *pty.Winsize {
	if size == nil {
		size = &api.Resize{}
	}
	return &pty.Winsize{Rows: uint16(size.Rows), Cols: uint16(size.Columns)}
}

func forwardSignals(cmd *exec.Cmd, signals <-chan int) {
	for signal := range signals { // closed at the end of the call
		_ = syscall.Kill(-cmd.Process.Pid, syscall.Signal(signal))
	}
}

func status(ctx context.Context, err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if wait, ok := exit.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
			return 128 + int(wait.Signal()), nil
		}
		return exit.ExitCode(), nil
	default:
		return 0, err
	}
}
