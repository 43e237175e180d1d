package service

import "fmt"

// Guests run the processes of containers.
type Guests interface {
	// Merge mounts what the processes of a container see as C:, and returns where; "" when they have no view of their own.
	Merge(scratch Scratch) (string, error)
	// Split undoes Merge.
	Split(merged string)
	// Boot makes what the processes of one container run in. It may take a second.
	Boot(container Container) (Guest, error)
}

// Scratch is a writable layer by its native paths.
type Scratch struct {
	Layers      []string // upper-most first
	Upper, Work string
}

// Container is a container that starts.
type Container struct {
	ID string
	// Merged is what Merge returned for its scratch.
	Merged string
	// Mapped are directories of the host that it sees.
	Mapped []Mapped
}

// Mapped is one directory of the host in a container.
type Mapped struct {
	// Host is native, Container a Windows path.
	Host, Container string
	ReadOnly        bool
}

// Guest is where the processes of one container run.
type Guest interface {
	// Run starts a process, and returns its id and what ends it. A GuestError is what Windows says.
	Run(process Process) (pid uint64, kill func(code uint32), err error)
	// Close ends every process, with exit code 1067, and returns when they and the guest are gone.
	Close()
}

// Process is a process to start.
type Process struct {
	CommandLine, Directory string
	// Env is added to the environment of the guest; it is keyed without regard to case.
	Env map[string]string
	// In, Out, Err are streams (Service.GuestStream), or 0.
	In, Out, Err uint64
	// Exited is called once, when the process has ended.
	Exited func(code uint32)
}

// GuestError is an error of Win32 that a guest met.
type GuestError uint32

func (e GuestError) Error() string { return fmt.Sprintf("the guest's error %d", uint32(e)) }

// aborted is the exit code of a process that was ended with its container, ERROR_PROCESS_ABORTED. Source: hcsshim's own
// benchmark expects it.
const aborted = 1067
