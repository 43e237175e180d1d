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
