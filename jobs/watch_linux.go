package jobs

import (
	"golang.org/x/sys/unix"
)

// processWatch holds a process by a pidfd: its number may be given to another process, the descriptor never.
type processWatch struct{ fd int }

// watchProcess returns nil, which counts as dead, when there is no such process.
func watchProcess(pid int) *processWatch {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	return &processWatch{fd: fd}
}

func (w *processWatch) dead() bool {
	if w == nil {
		return true
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

func (w *processWatch) close() {
	if w != nil {
		_ = unix.Close(w.fd)
	}
}
