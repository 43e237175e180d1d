package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Self returns the identity of the calling process.
func Self() (Process, error) { return Of(os.Getpid()) }

// Of returns the identity of the process that has an id now.
func Of(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Process{}, ErrGone
	}
	if err != nil {
		return Process{}, err
	}
	start, err := parseStart(stat)
	if err != nil {
		return Process{}, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// parseStart returns field 22 of /proc/PID/stat (proc(5)). The command name, field 2, may contain anything,
// so fields are counted from its closing parenthesis.
func parseStart(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no command name")
	}
	const startAfterName = 22 - 3 // fields[0] is field 3
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= startAfterName {
		return 0, errors.New("too few fields")
	}
	return strconv.ParseUint(fields[startAfterName], 10, 64)
}

// Handle is a hold on one process: its signals can reach no other.
type Handle struct {
	exited chan struct{}
	stop   chan struct{}
	close  sync.Once
	done   sync.WaitGroup

	mu sync.Mutex
	fd int // -1 once closed: its number may belong to another file by then
}

// Open takes hold of a process. It fails with ErrGone when that very process has ended, even if another one
// has its id now.
func Open(p Process) (*Handle, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	// The pidfd holds the process that has the id now; only an equal start time shows that it is the one meant.
	now, err := Of(p.PID)
	if err != nil || now != p || pollExited(fd, 0) {
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, ErrGone) {
			return nil, err
		}
		return nil, ErrGone
	}
	h := &Handle{fd: fd, exited: make(chan struct{}), stop: make(chan struct{})}
	h.done.Add(1)
	go h.watch(fd)
	return h, nil
}

// pollMillis is how often a watch looks whether it was closed; the exit itself ends its wait at once.
const pollMillis = 250

func (h *Handle) watch(fd int) {
	defer h.done.Done()
	for {
		if pollExited(fd, pollMillis) {
			close(h.exited)
			return
		}
		select {
		case <-h.stop:
			return
		default:
		}
	}
}

func pollExited(fd, millis int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, millis)
	return err == nil && n == 1
}

// Exited is closed when the process has ended, reaped or not. It stays open after Close.
func (h *Handle) Exited() <-chan struct{} { return h.exited }

// Terminate asks the process to end (SIGTERM). It is no error when it has ended already.
func (h *Handle) Terminate() error { return h.signal(unix.SIGTERM) }

// Kill ends the process (SIGKILL). It is no error when it has ended already.
func (h *Handle) Kill() error { return h.signal(unix.SIGKILL) }

func (h *Handle) signal(sig unix.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd < 0 {
		return errClosed
	}
	err := unix.PidfdSendSignal(h.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Wait returns when the process has ended or ctx has.
func (h *Handle) Wait(ctx context.Context) error {
	select {
	case <-h.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close lets the process go; the handle reaches nothing afterwards.
func (h *Handle) Close() {
	h.close.Do(func() {
		close(h.stop)
		h.done.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		_ = unix.Close(h.fd)
		h.fd = -1
	})
}
