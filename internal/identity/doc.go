// Package identity tells one process from another for longer than a process id does, and guards a file that
// only one process may hold.
//
// It is what lets the supervisor find its executor again after a restart without ever signalling a stranger: a
// process is its id, its start time and the boot it lives in; a lock file is held by the kernel for as long
// as its holder lives and names that holder. The supervisor and the executor call it; it is a leaf.
package identity

import "errors"

// ErrGone says that the process has ended, or that its id belongs to another one by now.
var ErrGone = errors.New("the process has ended")

// ErrLocked says that a living process holds the lock.
var ErrLocked = errors.New("the lock is held by another process")

var errClosed = errors.New("the process was let go")

// Process identifies one process of this machine, across the reuse of its id.
type Process struct {
	PID int `json:"pid"`
	// Start is when the process started: clock ticks since the boot (Linux, /proc/PID/stat), 100 ns steps
	// since 1601 (Windows, GetProcessTimes).
	Start uint64 `json:"start"`
	// Boot is the running kernel's boot id (Linux), empty elsewhere.
	Boot string `json:"boot,omitempty"`
}
