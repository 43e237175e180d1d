package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
)

// warmUpConn is the descriptor by which the child that warms up is connected.
const warmUpConn = 3

// warmUp starts the child that warms up, passes on what it and the executor say to each other, and returns when it has
// ended and the disks are free.
func (g *guest) warmUp(port *os.File, setup GuestSetup) error {
	pid, conn, err := startWarmUp()
	if err != nil {
		return err
	}
	stage := newRelay(port)
	told := make(chan error, 1)
	go func() {
		err := frame.WriteJSON(conn, frameRequest, setup)
		_, _ = io.Copy(deaf{conn}, stage) // to the stage's end, whether the child still hears it or not
		endWriting(conn)
		told <- err
	}()
	_, err = io.Copy(stage, conn) // until the child has ended
	err = errors.Join(err, <-told)
	var status unix.WaitStatus
	if _, e := unix.Wait4(pid, &status, 0, nil); e != nil {
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, stage.Close(), conn.Close()); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	return g.awaitDisks()
}

// deaf takes everything, also when it can no longer pass it on.
type deaf struct{ w io.Writer }

func (s deaf) Write(p []byte) (int, error) {
	_, _ = s.w.Write(p)
	return len(p), nil
}

// endWriting lets the other end of a socket read to its end. A child that has ended needs no such word.
func endWriting(conn *os.File) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// startWarmUp executes the agent once more, in a mount namespace of its own.
func startWarmUp() (pid int, conn *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("warming up: %w", err)
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("warming up: %w", err), unix.Close(pair[0]))
	}
	defer unix.Close(null)
	pid, err = syscall.ForkExec(agentProgram, []string{agentProgram, WarmUpArgument}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + defaultPath},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS},
	})
	if err == nil {
		err = unix.SetNonblock(pair[0], true)
	}
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("warming up: %w", err), unix.Close(pair[0]))
	}
	return pid, os.NewFile(uintptr(pair[0]), "warm-up"), nil
}

// awaitDisks waits until no disk is in use: the kernel unmounts what a namespace held a moment after its end. What was
// read of them is forgotten.
func (g *guest) awaitDisks() error {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		var err error
		for _, device := range g.disks {
			err = errors.Join(err, forget(device, unix.O_EXCL))
		}
		if err == nil {
			return nil
		}
		if time.Since(began) > warmUpTimeout {
			return fmt.Errorf("the disks after a warm-up: %w", err)
		}
	}
}

// WarmUpGuest is the child's part: what InitGuest does once it has a setup. It returns when the executor has ended it.
func WarmUpGuest() error {
	if err := syscall.SetNonblock(warmUpConn, true); err != nil {
		return err
	}
	conn := os.NewFile(warmUpConn, "warm-up")
	g, err := prepareGuest()
	if err != nil {
		return err
	}
	setup, err := readGuestSetup(conn)
	if err != nil {
		return err
	}
	return g.become(setup, conn)
}
