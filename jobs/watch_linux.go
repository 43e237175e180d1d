package jobs

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerOf returns the user id that a path belongs to; 0 when there is none.
func ownerOf(path string) uint32 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return 0
}

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
