package hcs

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// compute is the Host Compute Service with its layers, as far as it is used here. Paths are those of the host, chains
// are layer directories, upper-most first. Errors carry a code: see codeOf. A call may block for minutes, or for ever:
// it takes no context, so it is called through Host.bounded.
type compute interface {
	// CreateScratch makes the scratch layer dir, which does not exist, above a chain.
	CreateScratch(dir string, chain []string) error
	// ExpandScratch raises the size of a scratch layer that is not mounted.
	ExpandScratch(dir string, bytes int64) error
	// Activate attaches the disk of a scratch layer, Prepare merges the chain into it, and VolumePath returns where
	// it then is, with or without a trailing backslash.
	Activate(dir string) error
	Prepare(dir string, chain []string) error
	VolumePath(dir string) (string, error)
	Unprepare(dir string) error
	Deactivate(dir string) error
	// DestroyLayer removes a layer with all it holds.
	DestroyLayer(dir string) error
	// DetachDisk detaches a virtual disk, whoever attached it.
	DetachDisk(path string) error
	// Rename moves a layer directory within a volume.
	Rename(from, to string) error
	// ShareScript lets the users of containers read a file that is mapped into one, and nobody else.
	ShareScript(path string) error
	// LayerID is the service's name for a layer directory.
	LayerID(dir string) (string, error)

	// Systems returns the ids of the compute systems of one owner that have not ended.
	Systems(owner string) ([]string, error)
	Create(id string, document Document) (system, error)
	// Open opens a system by id; its error has codeNoSystem when there is none.
	Open(id string) (system, error)
}

// system is one compute system: a container.
type system interface {
	Start() error
	// Terminate ends it. It returns nil as soon as the service has taken the request, also for one that has ended.
	Terminate() error
	// Wait returns when it has ended, with how: nil for an end that was asked for.
	Wait() error
	// Close gives the handle back. A system made with TerminateOnLastHandleClosed ends with its last handle.
	Close() error
	CreateProcess(spec processDocument) (process, error)
	// Kill ends one process by its id within the system.
	Kill(pid int) error
	Processes() ([]processInfo, error)
	Statistics() (statistics, error)
}

// process is one process of a system.
type process interface {
	PID() int
	// Stdio are its pipes, nil where none was asked for; the caller closes them.
	Stdio() (stdin io.WriteCloser, stdout, stderr io.ReadCloser, err error)
	// CloseStdin tells the process, once the pipe is closed, that nothing more comes.
	CloseStdin() error
	Wait() error
	// ExitCode is its status after Wait.
	ExitCode() (int, error)
	Kill() error
	Resize(rows, columns uint16) error
	Close() error
}

// processDocument says what to start in a system. Stdin and stdout always have a pipe, stderr unless there is a console.
type processDocument struct {
	CommandLine, Directory, User string
	Environment                  map[string]string
	Console                      bool
	Rows, Columns                uint16
}

// processInfo is one line of a system's list of processes.
type processInfo struct {
	PID     int
	Image   string
	Created time.Time
}

// statistics is what a system uses: bytes committed, and processor time since its start.
type statistics struct {
	Memory int64
	CPU    time.Duration
}

// Document describes a compute system, in the terms of the service's first schema, hcsshim.ContainerConfig.
type Document struct {
	Owner, HostName string
	// Scratch is the scratch layer's directory; Volume where it is mounted, at the process level only.
	Scratch, Volume string
	Layers          []LayerRef
	// UtilityVM is the image of the virtual machine, at the hypervisor level only; SkipTemplate boots it instead of
	// cloning it from a machine that the service keeps.
	UtilityVM    string
	SkipTemplate bool
	// MemoryMB and the processor settings are limits when not 0. ProcessorMaximum is in hundredths of a per cent.
	MemoryMB, ProcessorMaximum int64
	ProcessorCount             uint32
	Mapped                     []MappedDir
	Endpoints                  []string
	DNSSearch                  string
}

// LayerRef is a read-only layer.
type LayerRef struct{ ID, Path string }

// MappedDir is a directory of the host that appears in the container.
type MappedDir struct {
	Host, Container string
	ReadOnly        bool
}

// Codes of errors that mean something here: Win32 codes, and the compute service's own as 0x8037xxxx (the service also
// writes them as 0xC037xxxx; codeOf makes them one).
const (
	codeFileNotFound   = 0x2
	codePathNotFound   = 0x3
	codeAccessDenied   = 0x5
	codeNotReady       = 0x15       // ERROR_NOT_READY
	codeSharing        = 0x20       // ERROR_SHARING_VIOLATION
	codeBadDirectory   = 0x10B      // ERROR_DIRECTORY
	codeNotConnected   = 0x48F      // ERROR_DEVICE_NOT_CONNECTED
	codeNotFound       = 0x490      // ERROR_NOT_FOUND
	codeTimeout        = 0x5B4      // ERROR_TIMEOUT
	codeAborted        = 1067       // ERROR_PROCESS_ABORTED: the status of who was ended with its container
	codeUnexpectedExit = 0x80370106 // HCS_E_UNEXPECTED_EXIT
	codeNoSystem       = 0x8037010E // HCS_E_SYSTEM_NOT_FOUND
)

// Errors of the service that have no code.
var (
	// errNoAnswer says that the service did not tell the end of what it had begun.
	errNoAnswer = errors.New("the compute service did not answer in time")
	// errServiceLost says that the service itself ended, or was restarted.
	errServiceLost = errors.New("the connection to the compute service was lost")
)

// callError is an error of the service. Every compute returns it, or one of the errors above, wrapped or not.
type callError struct {
	op   string
	code uint32
	err  error
}

func (e *callError) Error() string { return fmt.Sprintf("%s: %v (0x%X)", e.op, e.err, e.code) }

func (e *callError) Unwrap() error { return e.err }

// newCallError normalises the code.
func newCallError(op string, code uint32, err error) *callError {
	switch code >> 16 {
	case 0x8007: // a Win32 error as an HRESULT
		code &= 0xFFFF
	case 0xC037:
		code &^= 0x40000000
	}
	return &callError{op, code, err}
}

// codeOf returns the code of the service's error in a chain, 0 when there is none.
func codeOf(err error) uint32 {
	var e *callError
	if errors.As(err, &e) {
		return e.code
	}
	return 0
}

// hasCode says whether an error of the service has one of these codes.
func hasCode(err error, codes ...uint32) bool {
	code := codeOf(err)
	for _, c := range codes {
		if code == c && code != 0 {
			return true
		}
	}
	return false
}
