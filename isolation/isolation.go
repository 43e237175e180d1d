// Package isolation says what a sandbox is: the two levels, what one is made of (Spec), and the interfaces
// that every runtime implements (Runtime, Sandbox, Process).
//
// It holds types and interfaces only. The runtimes stand below it: isolation/oci (Linux, process level),
// isolation/microvm (Linux, hypervisor level), isolation/hcs (Windows, both). Package jobs is their caller;
// every runtime passes the same conformance suite, testing/conformance.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Level is how strongly a sandbox is isolated. Levels are ordered: ProcessLevel < HypervisorLevel. The zero value is
// no level at all, so that a forgotten field can never mean the weaker one.
type Level int

const (
	// ProcessLevel shares the host's kernel: an OCI container on Linux, a Windows Server Container on Windows.
	ProcessLevel Level = iota + 1
	// HypervisorLevel has a kernel of its own: a microVM on Linux, a Hyper-V container on Windows.
	HypervisorLevel
)

// String returns "process" or "hypervisor", the names that the configuration uses.
func (l Level) String() string {
	switch l {
	case ProcessLevel:
		return "process"
	case HypervisorLevel:
		return "hypervisor"
	default:
		return fmt.Sprintf("isolation.Level(%d)", int(l))
	}
}

// ParseLevel returns the level of a configuration name. Any other name, the empty one included, is an error.
func ParseLevel(name string) (Level, error) {
	switch name {
	case "process":
		return ProcessLevel, nil
	case "hypervisor":
		return HypervisorLevel, nil
	default:
		return 0, fmt.Errorf("unknown isolation %q: use \"process\" or \"hypervisor\"", name)
	}
}

// Paths inside every Linux sandbox. They are the same at both levels, because the agent is.
const (
	// Dir is Airlock's own directory in a sandbox: a tmpfs that holds the agent, the stages' scripts and the
	// helper root's mount point.
	Dir = "/.airlock"
	// AgentPath is where the agent is bound, read-only.
	AgentPath = Dir + "/agent"
	// HelperPath is where the helper root is attached, read-only.
	HelperPath = Dir + "/helper"
	// ScriptDir is where the agent writes a stage's script, in whichever root runs it. It is a tmpfs of
	// that root, mode 0711; a script is readable by the stage's user alone and removed with the stage.
	ScriptDir = Dir + "/scripts"
	// HomeDir is the home of helper stages, in the helper root's tmpfs: the helper root itself is read-only.
	HomeDir = Dir + "/home"
)

// Limits bound what a sandbox may use. Zero means "no limit" for each, which only tests should ask for.
type Limits struct {
	// Memory in bytes; swap is not granted beyond it.
	Memory int64
	// CPUs in cores: 1.5 is one and a half. At the hypervisor level it is rounded up to whole vCPUs.
	CPUs float64
	// PIDs is the number of processes and threads, the agent's included.
	PIDs int64
	// Scratch in bytes: everything the job writes to disk, image changes and builds together.
	Scratch int64
}

// Root is one root file system of a sandbox: a base, in the form that the runtime needs, and what its image's
// configuration says.
type Root struct {
	// Layers are host directories with unpacked layers, upper-most first, as overlayfs wants them (RootLayers).
	Layers []string
	// Disk is a read-only disk image with the same content (RootDisk).
	Disk string
	// Config is the image's configuration, as far as a sandbox needs it.
	Config ImageConfig
}

// ImageConfig is the part of an OCI image configuration that stages inherit.
type ImageConfig struct {
	// Env are "KEY=value" pairs.
	Env []string
	// User is "", "name", "uid", "name:group" or "uid:gid", resolved against the image's own passwd file.
	User string
	// WorkingDir is an absolute path or empty.
	WorkingDir string
	// OSVersion is the build of Windows that the image was made for, "10.0.20348.2700"; empty when it does not say,
	// and for Linux.
	OSVersion string
}

// ValidID reports whether id can be a sandbox's, as Spec.ID has it: names of files, cgroups and rules are made of it.
func ValidID(id string) bool {
	return id != "" && len(id) <= 40 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Spec is all a runtime needs to make one sandbox. Everything it names exists already and belongs to the
// caller: a runtime destroys only what it made itself.
type Spec struct {
	// ID is unique on this host, also across restarts: it names the container, its cgroup and the reaper's
	// finds. It matches [a-z0-9-]{1,40}, see ValidID.
	ID string
	// Hostname is the sandbox's own host name.
	Hostname string
	// Image is the root of the author's stages; writable, its changes go to the scratch.
	Image Root
	// Scripts says that scripts will be run. An image without a shell for them is then refused by Create, with class
	// author (Linux).
	Scripts bool
	// Helper is the root of the runner's own stages; read-only. Nil when none is configured: then those stages
	// run in Image.
	Helper *Root
	// ScratchDir is a host directory for this job alone, its size already bounded (form ScratchDirectory).
	ScratchDir string
	// ScratchDisk is a disk image for this job alone (form ScratchDisk).
	ScratchDisk string
	// CacheDir is a host directory to appear at CacheDir in the sandbox; empty means a directory of the scratch. Only a
	// runtime with Needs.HostDirectories takes one.
	CacheDir string
	// Network is what the sandbox is attached to.
	Network Network
	// Limits bound the sandbox as a whole.
	Limits Limits
}

// Network is an attachment that package network made. The zero value is no network but loopback.
type Network struct {
	// NetNS is a path that leads to the sandbox's network namespace (NetworkNamespace).
	NetNS string
	// MAC, Address (in CIDR notation), Gateway and MTU (bytes) are those of the sandbox's interface. A guest behind a
	// tap has to be told them; frames with any other source address are dropped.
	MAC, Address, Gateway string
	MTU                   int
	// Tap is the name of the tap device behind the guest's interface, and TapFile its only queue, without
	// virtio-net headers (IFF_TAP | IFF_NO_PI); both empty when there is no network (NetworkTap). The
	// device cannot be opened by its name, nor TapFile by a path: hand TapFile itself to the virtual
	// machine's process (exec.Cmd.ExtraFiles; QEMU: -netdev tap,fd=N). It stays the network's, which
	// closes it; the device goes with its last holder, whoever crashes.
	Tap     string
	TapFile *os.File
	// Endpoints are the ids of the sandbox's endpoints in the Host Networking Service (NetworkEndpoint). Name
	// servers come with them there.
	Endpoints []string
	// Nameservers, Search and Options make the sandbox's resolv.conf; all empty writes an empty one. Windows takes Search.
	Nameservers, Search, Options []string
	// Hosts are extra lines of /etc/hosts, "address name...".
	Hosts []string
}

// Errors that every runtime returns, wrapped or not.
var (
	// ErrSandboxGone says that the sandbox ended under a call: destroyed, killed or out of memory.
	ErrSandboxGone = errors.New("the sandbox is gone")
	// ErrUnsupported says that this host cannot run the level.
	ErrUnsupported = errors.New("not supported on this host")
)

// Runtime makes sandboxes of one level on one operating system. Its methods may be called concurrently.
//
// The life of one job, in the order of the calls:
//
//	needs := runtime.Needs()
//	spec := Spec{ID: id}                              // id is in a journal by now
//	spec.Image.Layers = ...                           // as needs.Root says; the helper root likewise
//	spec.ScratchDir = ...                             // as needs.Scratch says, made for this job
//	spec.Network = ...                                // as needs.Network says, attached for this job
//	sandbox, err := runtime.Create(ctx, spec)         // when it fails, nothing is left
//	process, err := sandbox.Start(ctx, ProcessSpec{Script: script, Stdout: log, Stderr: log})
//	exit, err := process.Wait()                       // its output is written, its descendants have ended
//	...                                               // more stages, one after the other
//	err = sandbox.Destroy(ctx)                        // the processes first, then all that Create made
//
// What the caller made, it takes back after Destroy: network, scratch, base. When Destroy fails it keeps them, and calls
// Destroy again later: something may still use them.
//
// After a crash of the caller no Sandbox is left, but what Create made may be. The next process finds it by name alone:
//
//	ids, err := runtime.List(ctx)                     // every sandbox with this runtime's marks
//	err = runtime.Destroy(ctx, id)                    // those that no journal gives to a living job
//
// ExampleRuntime runs these calls.
type Runtime interface {
	// Name is the runtime's name for logs and for the job's author: "crun", "qemu-kvm".
	Name() string
	// Level is the level that every sandbox of this runtime has.
	Level() Level
	// Needs says in which form Create takes what Spec holds.
	Needs() Needs
	// Create makes a sandbox and returns when its agent answers. When it fails, nothing is left.
	// The context bounds the creation only, not the sandbox's life.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// List returns the ids of all sandboxes that exist on this host in whatever state, those of earlier
	// processes included, as far as they carry this runtime's marks.
	List(ctx context.Context) ([]string, error)
	// Destroy removes whatever is left of a sandbox, by id alone: processes, mounts, cgroups, state. It
	// succeeds when nothing is left, also when there was nothing. It never signals a bare process id.
	Destroy(ctx context.Context, id string) error
}

// Fitter is the power of a Runtime to know which images cannot run at its level on this host. The reason reads after
// "because". A job whose image does not fit may be raised to a stronger level, and is never moved to a weaker one.
type Fitter interface {
	Fits(image ImageConfig) (fits bool, reason string)
}

// Emulator is the power of a Runtime whose sandboxes may have another processor than the host. ProcessorVariant returns
// which variant of an image runs on it ("v1" to "v4" of amd64); empty is the host's own. It may start a machine to find out.
type Emulator interface {
	ProcessorVariant(ctx context.Context) (string, error)
}

// Sandbox is one running sandbox.
type Sandbox interface {
	// ID is the Spec's.
	ID() string
	// Start starts a process. The context bounds the start only.
	Start(ctx context.Context, spec ProcessSpec) (Process, error)
	// Stats reads the current use of resources.
	Stats(ctx context.Context) (Stats, error)
	// Done is closed when the sandbox has ended, for whatever reason.
	Done() <-chan struct{}
	// Destroy ends every process and removes all that Create made. It may be called beside anything else,
	// any number of times; Wait of living processes then returns ErrSandboxGone.
	Destroy(ctx context.Context) error
}

// Virtual is the power of a Sandbox of the hypervisor level to describe its machine.
type Virtual interface {
	Machine() Machine
}

// Machine is the virtual machine of one sandbox.
type Machine struct {
	// VCPUs are the processors that the guest sees, and Memory all that it has, in bytes.
	VCPUs  int
	Memory int64
	// Accelerator runs its instructions: "kvm", or "tcg", which emulates.
	Accelerator string
	// Kernel is the version of the guest's kernel, as its file is named: "6.1.0-56-cloud-amd64".
	Kernel string
}

// ProcessSpec says what to start in a sandbox: a stage's script or a command.
type ProcessSpec struct {
	// Script, when not nil, is written to a file and run by the root's bash, else sh; stdin is empty then.
	Script []byte
	// Shell says, on Windows, which program the script is for: "powershell", "pwsh" or "cmd"; empty means powershell.
	Shell string
	// Args is the command when there is no script. Args[0] is looked up in the PATH of Env. With neither
	// script nor args, the detected shell itself is started.
	Args []string
	// Helper makes it one of the runner's own stages: it runs in the helper root, if the sandbox has one, else in the image,
	// and on Linux reads and writes every file of the builds and cache directories, whoever its user is.
	Helper bool
	// Env are "KEY=value" pairs, added to the root's ImageConfig.Env; later ones win.
	Env []string
	// Dir is the working directory if it exists in the sandbox; else the job's builds_dir.
	Dir string
	// User overrides the ImageConfig's User when not empty.
	User string
	// Interactive marks an administrator's session: the end of a stage does not end it.
	Interactive bool
	// TTY gives it a terminal of Rows x Columns; stdout then carries both streams.
	TTY           bool
	Rows, Columns uint16
	// Stdin may be nil (empty). Stdout and Stderr may be nil (discarded). Writes to them may block: the
	// process is then held back, never buffered without bound.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is one started process with all its descendants.
type Process interface {
	// Wait returns when the process and its descendants have ended and their output was written in full.
	// A write error of Stdout or Stderr does not end it: output is discarded from then on. Every error means
	// that the status is unknown; it wraps ErrSandboxGone when the sandbox ended under it.
	Wait() (Exit, error)
	// Signal sends a signal number to the whole process tree. 9 ends it for certain, whatever it does.
	Signal(ctx context.Context, signal int) error
	// Resize sets the size of the terminal.
	Resize(ctx context.Context, rows, columns uint16) error
}

// Exit is how a process ended.
type Exit struct {
	// Code is its status, 0 to 255, on Windows any 32-bit number; 128 plus the signal when a signal ended it.
	Code int
	// Signal is the signal's number, or 0.
	Signal int
	// OOM says that the sandbox's memory limit killed something while the process ran.
	OOM bool
}

// Stats is what a sandbox uses now.
type Stats struct {
	Memory   int64         // bytes
	PIDs     int64         // processes and threads
	CPU      time.Duration // consumed since the start
	OOMKills int64         // processes killed by the memory limit since the start
}
