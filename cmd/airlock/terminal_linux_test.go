package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/standin"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// screen is airlock on a pseudo-terminal, with a person who types and reads.
type screen struct {
	t        *testing.T
	keyboard *os.File
	airlock  *exec.Cmd
	tty      *os.File

	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{}
}

func openScreen(t *testing.T, host *standin.Executor, args ...string) *screen {
	t.Helper()
	cmd := airlockCommand(t, host, args...)
	keyboard, tty, err := pty.Open()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = keyboard.Close(), tty.Close() })
	require.NoError(t, pty.Setsize(keyboard, &pty.Winsize{Rows: 33, Cols: 111}))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	s := &screen{t: t, keyboard: keyboard, airlock: cmd, tty: tty, done: make(chan struct{})}
	go s.read()
	return s
}

// airlockCommand is this test binary as airlock (see TestMain), with a stand-in for the service.
func airlockCommand(t *testing.T, host *standin.Executor, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("airlock")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "AIRLOCK_SOCKET="+standin.Serve(t, host))
	return cmd
}

func (s *screen) read() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, err := s.keyboard.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) shows(text string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(s.text.String(), text)
	}, 10*time.Second, 5*time.Millisecond, "the screen never showed %q", text)
}

func (s *screen) types(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.keyboard, keys)
	require.NoError(s.t, err)
}

// ends waits for airlock and checks its status and that the terminal is as it was.
func (s *screen) ends(status int, before *unix.Termios) {
	s.t.Helper()
	_ = s.airlock.Wait()
	require.Equal(s.t, status, s.airlock.ProcessState.ExitCode())
	require.Equal(s.t, before, s.termios(), "the terminal was not restored")
}

func (s *screen) termios() *unix.Termios {
	s.t.Helper()
	state, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	require.NoError(s.t, err)
	return state
}

// cooked is the state of a fresh terminal.
func cooked(t *testing.T) *unix.Termios {
	t.Helper()
	keyboard, tty, err := pty.Open()
	require.NoError(t, err)
	defer keyboard.Close()
	defer tty.Close()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return state
}

func TestAShellIsUsedAsAPersonDoes(t *testing.T) {
	for name, args := range map[string][]string{
		"shell of a job":   {"shell", "4711"},
		"shell in the run": {"run"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openScreen(t, &standin.Executor{}, args...)
			s.types("stty size; echo $((40+2))\r")
			s.shows("33 111\r\n42\r\n")

			require.NoError(t, pty.Setsize(s.keyboard, &pty.Winsize{Rows: 44, Cols: 122}))
			require.Eventually(t, func() bool {
				s.types("stty size\r")
				time.Sleep(100 * time.Millisecond)
				s.mu.Lock()
				defer s.mu.Unlock()
				return strings.Contains(s.text.String(), "44 122\r\n")
			}, 10*time.Second, 10*time.Millisecond, "the new size never arrived")

			// Ctrl-C is the inner terminal's: it ends the sleep and neither the shell nor airlock.
			s.types("sleep 600\r")
			require.Eventually(t, func() bool {
				s.types("\x03")
				time.Sleep(100 * time.Millisecond)
				s.types("echo after $?\r")
				time.Sleep(100 * time.Millisecond)
				s.mu.Lock()
				defer s.mu.Unlock()
				return strings.Contains(s.text.String(), "after 130")
			}, 10*time.Second, 10*time.Millisecond, "Ctrl-C did not reach the command")
			s.types("exit 5\r")
			s.ends(5, cooked(t))
		})
	}
}

func TestTheTerminalIsRestoredHoweverItEnds(t *testing.T) {
	t.Run("by a signal to airlock", func(t *testing.T) {
		t.Parallel()
		s := openScreen(t, &standin.Executor{}, "run", "-t", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
		s.shows("ready")
		require.NoError(t, s.airlock.Process.Signal(syscall.SIGTERM))
		s.ends(9, cooked(t))
	})
	t.Run("by an error of the service", func(t *testing.T) {
		t.Parallel()
		s := openScreen(t, &standin.Executor{Log: "first line\nsecond line\n"}, "run", "-t", "--", "/nonexistent")
		s.shows("first line\r\nsecond line")
		s.shows("airlock: ")
		s.ends(1, cooked(t))
	})
	t.Run("by a second signal", func(t *testing.T) {
		t.Parallel()
		s := openScreen(t, &standin.Executor{}, "run", "-t", "--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
		s.shows("ready")
		require.NoError(t, s.airlock.Process.Signal(syscall.SIGTERM))
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, s.airlock.Process.Signal(syscall.SIGTERM))
		s.ends(137, cooked(t))
	})
}

func TestSignalsReachTheCommand(t *testing.T) {
	cmd := airlockCommand(t, &standin.Executor{}, "run", "--", "sh", "-c",
		"trap 'echo usr1' USR1; trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.05; done")
	out := &syncbuf.Buffer{}
	cmd.Stdout = out
	require.NoError(t, cmd.Start())
	for _, step := range []struct {
		shown  string
		signal syscall.Signal
	}{{"ready", syscall.SIGUSR1}, {"usr1", syscall.SIGINT}} {
		require.Eventually(t, func() bool { return strings.Contains(out.String(), step.shown) }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(step.signal))
	}
	_ = cmd.Wait()
	require.Equal(t, 4, cmd.ProcessState.ExitCode())
	require.Equal(t, "ready\nusr1\nint\n", out.String())
}

func TestAReaderThatLeavesEndsTheCommandQuietly(t *testing.T) {
	cmd := airlockCommand(t, &standin.Executor{}, "run", "--", "yes")
	read, write, err := os.Pipe()
	require.NoError(t, err)
	stderr := &syncbuf.Buffer{}
	cmd.Stdout, cmd.Stderr = write, stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	_, err = io.ReadFull(read, make([]byte, 100))
	require.NoError(t, err)
	require.NoError(t, read.Close())
	_ = cmd.Wait()
	require.Equal(t, 141, cmd.ProcessState.ExitCode())
	require.Empty(t, stderr.String())
}

func TestUnreadInputLeavesNoTrace(t *testing.T) {
	for range 30 {
		cmd := airlockCommand(t, &standin.Executor{}, "run", "--", "true")
		stderr := &syncbuf.Buffer{}
		cmd.Stderr = stderr
		read, write, err := os.Pipe()
		require.NoError(t, err)
		cmd.Stdin = read
		go func() { _, _ = io.Copy(write, endless{}) }()
		require.NoError(t, cmd.Start())
		require.NoError(t, read.Close())
		_ = cmd.Wait()
		require.Zero(t, cmd.ProcessState.ExitCode())
		require.Empty(t, stderr.String())
	}
}

// endless is an input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
