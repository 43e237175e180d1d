package api

// Question is a call that is answered with one value: Ask asks it, Answer answers it.
type Question[Q, A any] struct{ Op Op }

// Nothing is the body of a question that needs none, and the answer to one that only succeeds.
type Nothing struct{}

// The questions of administrators. A new one is defined here with its messages, and answered in executor/administer.go.
var (
	ListSandboxes = Question[Nothing, []*SandboxInfo]{"list"}
	InspectOne    = Question[InspectRequest, *SandboxInfo]{"inspect"}
	ListImages    = Question[Nothing, *Images]{"images"}
	RemoveImage   = Question[ImageRequest, RemovedImage]{"remove-image"}
	PinImage      = Question[PinRequest, Nothing]{"pin-image"}
	Reap          = Question[ReapRequest, []*Leftover]{"reap"}
)

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
