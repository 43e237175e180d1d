package hosttest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
)

// session is the command of a sandbox or a shell.
type session struct {
	command []string
	env     []string
	tty     bool
	size    *api.Resize
}

// runCommand runs a session's command as a process of this machine until it ends or the caller is gone.
func runCommand(ctx context.Context, s session, stream hostpb.Host_CallServer, out, errOut io.Writer) *api.Result {
	if len(s.command) == 0 {
		s.command = []string{"sh"}
	}
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	if s.tty {
		return runOnTerminal(cmd, s.size, stream, out)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Stdout, cmd.Stderr = out, errOut
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return &api.Result{Message: err.Error()}
	}
	if err := cmd.Start(); err != nil {
		return &api.Result{FailureClass: api.FailureClass_FAILURE_CLASS_AUTHOR, Message: err.Error()}
	}
	input := newBacklog(stdin)
	go follow(stream, cmd.Process.Pid, input, nil)
	return exitResult(cmd.Wait())
}

func runOnTerminal(cmd *exec.Cmd, size *api.Resize, stream hostpb.Host_CallServer, out io.Writer) *api.Result {
	terminal, err := pty.StartWithSize(cmd, winsize(size))
	if err != nil {
		return &api.Result{FailureClass: api.FailureClass_FAILURE_CLASS_AUTHOR, Message: err.Error()}
	}
	defer terminal.Close()
	go follow(stream, cmd.Process.Pid, terminal, terminal)
	_, _ = io.Copy(out, terminal) // ends with EIO when the last process closes its side
	return exitResult(cmd.Wait())
}

func winsize(size *api.Resize) *pty.Winsize {
	return &pty.Winsize{Rows: uint16(size.GetRows()), Cols: uint16(size.GetColumns())}
}

// follow passes the caller's frames on to the command.
func follow(stream hostpb.Host_CallServer, pid int, stdin io.WriteCloser, terminal *os.File) {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return
		}
		switch kind := frame.GetKind().(type) {
		case *api.ClientFrame_Data:
			_, _ = stdin.Write(kind.Data)
		case *api.ClientFrame_End:
			if terminal == nil {
				_ = stdin.Close()
			}
		case *api.ClientFrame_Signal:
			_ = syscall.Kill(-pid, syscall.Signal(kind.Signal))
		case *api.ClientFrame_Resize:
			if terminal != nil {
				_ = pty.Setsize(terminal, winsize(kind.Resize))
			}
		}
	}
}

func exitResult(err error) *api.Result {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &api.Result{Ok: true}
	case errors.As(err, &exit):
		code := exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		return &api.Result{Ok: true, ExitCode: int32(code)}
	default:
		return &api.Result{Message: err.Error()}
	}
}

// backlog hands a command's input on in its own time, so that signals behind it arrive.
type backlog struct{ chunks chan []byte }

func newBacklog(w io.WriteCloser) *backlog {
	b := &backlog{chunks: make(chan []byte, 1<<16)}
	go func() {
		defer w.Close()
		for chunk := range b.chunks {
			_, _ = w.Write(chunk)
		}
	}()
	return b
}

func (b *backlog) Write(p []byte) (int, error) {
	b.chunks <- append([]byte(nil), p...)
	return len(p), nil
}

func (b *backlog) Close() error {
	close(b.chunks)
	return nil
}
