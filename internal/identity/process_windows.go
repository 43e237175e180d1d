package identity

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/windows"
)

// Self returns the identity of the calling process.
func Self() (Process, error) { return Of(os.Getpid()) }

// Of returns the identity of the process that has an id now.
func Of(pid int) (Process, error) {
	handle, err := open(pid)
	if err != nil {
		return Process{}, err
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	return identify(pid, handle)
}

func open(pid int) (windows.Handle, error) {
	const access = windows.PROCESS_QUERY_LIMITED_INFORMATION | windows.PROCESS_TERMINATE | windows.SYNCHRONIZE
	handle, err := windows.OpenProcess(access, false, uint32(pid))
	if errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
		return 0, ErrGone
	}
	return handle, err
}

func identify(pid int, handle windows.Handle) (Process, error) {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(handle, &created, &exited, &kernel, &user); err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: uint64(created.HighDateTime)<<32 | uint64(created.LowDateTime)}, nil
}

// Handle is a hold on one process: what it does can reach no other.
type Handle struct {
	identity Process

	exited chan struct{}
	stop   chan struct{}
	close  sync.Once
	done   sync.WaitGroup

	mu      sync.Mutex
	process windows.Handle // 0 once closed: its value may belong to another object by then
}

// Open takes hold of a process. It fails with ErrGone when that very process has ended, even if another one
// has its id now.
func Open(p Process) (*Handle, error) {
	process, err := open(p.PID)
	if err != nil {
		return nil, err
	}
	now, err := identify(p.PID, process)
	if err != nil || now != p || waitExited(process, 0) {
		_ = windows.CloseHandle(process)
		if err != nil {
			return nil, err
		}
		return nil, ErrGone
	}
	h := &Handle{identity: p, process: process, exited: make(chan struct{}), stop: make(chan struct{})}
	h.done.Add(1)
	go h.watch(process)
	return h, nil
}

func (h *Handle) watch(process windows.Handle) {
	defer h.done.Done()
	for {
		if waitExited(process, 250) {
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

func waitExited(process windows.Handle, millis uint32) bool {
	event, err := windows.WaitForSingleObject(process, millis)
	return err == nil && event == windows.WAIT_OBJECT_0
}

// Exited is closed when the process has ended. It stays open after Close.
func (h *Handle) Exited() <-chan struct{} { return h.exited }

// Terminate asks the process to end, if it listens (see AwaitStop); one that does not is ended.
func (h *Handle) Terminate() error {
	if askToStop(h.identity) == nil {
		return nil
	}
	return h.Kill()
}

// Kill ends the process.
func (h *Handle) Kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == 0 {
		return errClosed
	}
	return windows.TerminateProcess(h.process, 1)
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
		_ = windows.CloseHandle(h.process)
		h.process = 0
	})
}
