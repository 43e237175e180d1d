package api

import "io"

// Streams is what flows beside a call that runs something: the caller's side of input, output, signals and terminal
// size. Writers may block for as long as the other side is slow; they fail once it is gone.
type Streams struct {
	// Stdin is the data of the call: the job response (prepare), the script (run), stdin (sandbox, shell), an image's tar
	// (import). It ends with io.EOF. Nil: empty.
	Stdin io.Reader
	// Stdout and Stderr are never nil within an executor.
	Stdout, Stderr io.Writer
	// Signals carries signal numbers: 15 asks for a graceful end, 9 for an end at once; others go to a shell's
	// foreground. An executor's is closed at the end of the call; a caller's may be nil.
	Signals <-chan int
	// Resizes carries new terminal sizes (sandbox, shell); may be nil.
	Resizes <-chan *Resize
	// Sent, when not nil, is called by a Client once all of Stdin was sent.
	Sent func()
}

// Prepare makes the sandbox of a job. Its data is the job response file, byte for byte.
type Prepare struct {
	// Handle is what config_exec put in job_env: job id and nonce.
	Handle string `json:"handle"`
	// RunnerClass is the administrator's --runner-class argument. A socket that belongs to a class overrides it.
	RunnerClass string `json:"runner_class,omitempty"`
	// RunnerDir is the driver's working directory, a temporary directory of the runner's that holds the job response; the
	// reaper removes it when its runner is gone.
	RunnerDir string `json:"runner_dir,omitempty"`
	// RunnerPID is the process that started the driver: once it is dead, nobody will clean up after the job.
	RunnerPID int `json:"runner_pid,omitempty"`
	// RunnerUID is the user of the caller. Callers do not say it: the executor sets it by what the kernel says of the
	// connection. What is in RunnerDir is removed only if it is this user's, so no caller can have somebody else's removed.
	RunnerUID uint32 `json:"-"`
}

// Run executes one stage in the job's sandbox. Its data is the stage's script.
type Run struct {
	Handle string `json:"handle"`
	Stage  string `json:"stage"`
	// RunnerPID is the process that started the driver.
	RunnerPID int `json:"runner_pid,omitempty"`
	// Shell is the kind of the script on Windows: "powershell", "pwsh" or "cmd". Empty on Linux, where it is bash or sh.
	Shell string `json:"shell,omitempty"`
}

// Cleanup destroys the job's sandbox. It succeeds when there is none.
type Cleanup struct {
	Handle string `json:"handle"`
}

// Sandbox is `airlock run`: a sandbox without GitLab, for one command.
type Sandbox struct {
	Image string `json:"image"`
	// Isolation is "", "process" or "hypervisor"; empty leaves the choice to the policy.
	Isolation string   `json:"isolation,omitempty"`
	Command   []string `json:"command,omitempty"`
	Env       []string `json:"env,omitempty"`
	TTY       bool     `json:"tty,omitempty"`
	Size      *Resize  `json:"size,omitempty"`
	// Network is "", "nat" or "none".
	Network string `json:"network,omitempty"`
}

// Shell opens an interactive shell in a living sandbox.
type Shell struct {
	// Job is a job id, a handle or a sandbox id.
	Job  string  `json:"job"`
	TTY  bool    `json:"tty,omitempty"`
	Size *Resize `json:"size,omitempty"`
	// Command replaces the shell when not empty.
	Command []string `json:"command,omitempty"`
	// Helper opens it in the helper root.
	Helper bool `json:"helper,omitempty"`
}

// Pull pulls an image into the cache; progress comes as stdout.
type Pull struct {
	Image string `json:"image"`
}

// Import stores an image. Its data is a docker-archive or OCI-layout tar, maybe compressed with gzip or zstd.
type Import struct {
	// Name is what it becomes known as; empty: as the archive calls it.
	Name string `json:"name,omitempty"`
	// Pick is what the archive calls it, if that holds several; empty: Name.
	Pick string `json:"pick,omitempty"`
	// Unpinned leaves it to be evicted like an image of a registry.
	Unpinned bool `json:"unpinned,omitempty"`
}

// Events asks for the executor's log lines, the kept ones first: JSON objects as zerolog writes them, each on a line of
// stdout.
type Events struct {
	// Job limits the lines to one job id or sandbox id; empty means all.
	Job    string `json:"job,omitempty"`
	Follow bool   `json:"follow,omitempty"`
}

// Resize is the size of a terminal, in characters.
type Resize struct {
	Rows    uint32 `json:"rows"`
	Columns uint32 `json:"columns"`
}

// Characters returns the size as terminals have it; nil is no size.
func (r *Resize) Characters() (rows, columns uint16) {
	if r == nil {
		return 0, 0
	}
	return uint16(r.Rows), uint16(r.Columns)
}

// Version is what an executor says of itself.
type Version struct {
	Protocol uint32 `json:"protocol"`
	Version  string `json:"version"`
	// Instance differs for every executor process.
	Instance   string `json:"instance"`
	ConfigPath string `json:"config_path,omitempty"`
}

// SandboxInfo describes one living sandbox for `airlock ps` and `airlock inspect`. Sizes are in bytes, limits of 0 are none.
type SandboxInfo struct {
	ID               string  `json:"id"`
	JobID            int64   `json:"job_id,omitempty"`
	Project          string  `json:"project,omitempty"`
	Isolation        string  `json:"isolation,omitempty"`
	Reason           string  `json:"reason,omitempty"`
	Image            string  `json:"image,omitempty"`
	Digest           string  `json:"digest,omitempty"`
	State            string  `json:"state,omitempty"`
	Stage            string  `json:"stage,omitempty"`
	CreatedUnixNano  int64   `json:"created_unix_nano,omitempty"`
	MemoryBytes      int64   `json:"memory_bytes,omitempty"`
	MemoryLimitBytes int64   `json:"memory_limit_bytes,omitempty"`
	CPUs             float64 `json:"cpus,omitempty"`
	PIDs             int64   `json:"pids,omitempty"`
	PIDsLimit        int64   `json:"pids_limit,omitempty"`
	ScratchBytes     int64   `json:"scratch_bytes,omitempty"`
	ScratchUsedBytes int64   `json:"scratch_used_bytes,omitempty"`
	Network          string  `json:"network,omitempty"`
	Address          string  `json:"address,omitempty"`
	Runtime          string  `json:"runtime,omitempty"`
	// Steps are the timed steps of prepare.
	Steps    []*Step `json:"steps,omitempty"`
	HandleID string  `json:"handle_id,omitempty"`
	// Machine is the virtual machine of a sandbox of the hypervisor level; else nil.
	Machine *Machine `json:"machine,omitempty"`
	// Rule is the policy's rule that decided, Policy the policy's digest.
	Rule   string `json:"rule,omitempty"`
	Policy string `json:"policy,omitempty"`
}

// Machine is the virtual machine of a sandbox.
type Machine struct {
	VCPUs       int32 `json:"vcpus"`
	MemoryBytes int64 `json:"memory_bytes"`
	// Accelerator is "kvm" or "tcg".
	Accelerator string `json:"accelerator"`
	// Kernel is the version of the guest's kernel.
	Kernel string `json:"kernel"`
}

// Step is one timed step of making a sandbox.
type Step struct {
	Name        string `json:"name"`
	Nanoseconds int64  `json:"nanoseconds"`
}

// InspectRequest asks for one sandbox, by job id or sandbox id.
type InspectRequest struct {
	Job string `json:"job"`
}

// Images are those of the cache, and what they use. Limits of 0 are none.
type Images struct {
	Images []*ImageInfo `json:"images,omitempty"`
	// Limit bounds what all images take together.
	LimitBytes  int64 `json:"limit_bytes,omitempty"`
	LimitInodes int64 `json:"limit_inodes,omitempty"`
	UsedBytes   int64 `json:"used_bytes,omitempty"`
	UsedInodes  int64 `json:"used_inodes,omitempty"`
	// Pinned is the part of Used that no pull evicts.
	PinnedBytes  int64 `json:"pinned_bytes,omitempty"`
	PinnedInodes int64 `json:"pinned_inodes,omitempty"`
	// Free is what the cache's file system has left, Floor what pulls leave of it.
	FreeBytes   int64 `json:"free_bytes,omitempty"`
	FreeInodes  int64 `json:"free_inodes,omitempty"`
	FloorBytes  int64 `json:"floor_bytes,omitempty"`
	FloorInodes int64 `json:"floor_inodes,omitempty"`
	// Evicted, RefusedTooLarge and RefusedNoRoom count since the executor's start: images that made room for others, pulls
	// of images beyond the limits of one image, pulls that ended at the floor.
	Evicted         int64 `json:"evicted,omitempty"`
	RefusedTooLarge int64 `json:"refused_too_large,omitempty"`
	RefusedNoRoom   int64 `json:"refused_no_room,omitempty"`
}

// ImageInfo describes one image of the cache.
type ImageInfo struct {
	Name             string `json:"name"`
	Digest           string `json:"digest"`
	SizeBytes        int64  `json:"size_bytes,omitempty"`
	Inodes           int64  `json:"inodes,omitempty"`
	CreatedUnixNano  int64  `json:"created_unix_nano,omitempty"`
	LastUsedUnixNano int64  `json:"last_used_unix_nano,omitempty"`
	Leases           int32  `json:"leases,omitempty"`
	Private          bool   `json:"private,omitempty"`
	// Pinned images are evicted by no pull.
	Pinned bool `json:"pinned,omitempty"`
}

// ImageRequest names an image, by name or digest.
type ImageRequest struct {
	Image string `json:"image"`
}

// RemovedImage says what the removal of an image freed.
type RemovedImage struct {
	FreedBytes int64 `json:"freed_bytes"`
}

// PinRequest keeps an image from being evicted by pulls, or no longer.
type PinRequest struct {
	Image  string `json:"image"`
	Pinned bool   `json:"pinned"`
}

// ReapRequest lists, and unless DryRun removes, what no living job owns.
type ReapRequest struct {
	DryRun bool `json:"dry_run,omitempty"`
}

// Leftover is one thing that no living job owns.
type Leftover struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Sandbox string `json:"sandbox,omitempty"`
	Removed bool   `json:"removed,omitempty"`
	Error   string `json:"error,omitempty"`
}

// DecisionCount is how often a rule of the policy decided so. Isolation is "process", "hypervisor" or "rejected".
type DecisionCount struct {
	Rule      string
	Isolation string
	Count     int64
}
