package jobs

import (
	"context"
	"time"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// The interfaces that a job's life needs, as small as it needs them. Concrete types meet them only in
// cmd/airlock-executor.

// Policy turns the facts of a job into a decision.
type Policy interface {
	// Decide returns the decision, or a refusal: an error of class admin whose message the author sees. With a
	// refusal the decision has its Rule, Policy and Notes.
	Decide(ctx context.Context, facts policy.Facts) (policy.Decision, error)
}

// Identities verifies id tokens: package policy/idtoken.
type Identities interface {
	// Verify returns what the job's id token says, nil when the job carries none. An error says why the token is not
	// believed; it never quotes it.
	Verify(ctx context.Context, job *gitlab.JobResponse) (*policy.Identity, error)
}

// Audit keeps what was decided about every job: package jobs/audit.
type Audit interface {
	// Record returns when the entry is written. A job whose decision cannot be recorded is not run.
	Record(entry AuditEntry) error
}

// AuditEntry is one decision, as the audit log has it. It never holds a secret, nor what a job's author claims.
type AuditEntry struct {
	Time    time.Time `json:"time"`
	Sandbox string    `json:"sandbox"`
	// Outcome is "granted", "rejected", or "raised": the job was escalated from the level of an earlier entry.
	Outcome string `json:"outcome"`
	// Isolation is empty when the job was rejected.
	Isolation string `json:"isolation,omitempty"`
	Rule      string `json:"rule"`
	Policy    string `json:"policy"`
	Reason    string `json:"reason"`
	// Doubts say which rules could not be evaluated, and why.
	Doubts []string `json:"doubts,omitempty"`

	// What is attested about the job; unknown facts are left out.
	JobID       int64  `json:"job_id"`
	ProjectID   *int64 `json:"project_id,omitempty"`
	Project     string `json:"project,omitempty"`
	PipelineID  *int64 `json:"pipeline_id,omitempty"`
	UserID      *int64 `json:"user_id,omitempty"`
	Ref         string `json:"ref,omitempty"`
	Protected   *bool  `json:"protected,omitempty"`
	RunnerClass string `json:"runner_class,omitempty"`
	// IDToken is "verified", "not believed" or empty: there was none.
	IDToken string `json:"id_token,omitempty"`

	// What was granted; 0 is no limit.
	Network        string  `json:"network,omitempty"`
	CacheScope     string  `json:"cache,omitempty"`
	Memory         int64   `json:"memory_bytes,omitempty"`
	CPUs           float64 `json:"cpus,omitempty"`
	PIDs           int64   `json:"pids,omitempty"`
	Scratch        int64   `json:"scratch_bytes,omitempty"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
}

// Layers gives bases and scratches: package cache.
type Layers interface {
	// Base resolves, authorises, and if necessary pulls and unpacks an image, and leases it to holder until
	// Release. It tells log what takes long.
	Base(ctx context.Context, req BaseRequest, log *joblog.Log) (Base, error)
	// Release ends every lease of a holder. It cannot fail: unknown holders have none.
	Release(holder string)
	// NewScratch makes the scratch of one sandbox.
	NewScratch(ctx context.Context, req ScratchRequest) (Scratch, error)
	// DestroyScratch removes a scratch with all it holds; it succeeds when there is none.
	DestroyScratch(ctx context.Context, id string) error
	// ScratchUsed returns how much of a living scratch is used, in bytes.
	ScratchUsed(ctx context.Context, id string) (int64, error)
	// Scratches lists the ids of all scratches there are, those of earlier processes included.
	Scratches(ctx context.Context) ([]string, error)
	// CacheVolume returns the host directory that keeps what the jobs of one scope cache, made when missing.
	CacheVolume(ctx context.Context, scope string) (string, error)
}

// BaseRequest asks for the base of an image.
type BaseRequest struct {
	Image      string
	PullPolicy string // "always", "if-not-present" or "never"
	Holder     string // the sandbox id
	// Form is what the sandbox's runtime takes a base as, and Variant the processor of its sandboxes ("v1"); empty: the host's.
	Form    isolation.RootForm
	Variant string
	// Credentials are the job's registry credentials; they are used for this request and not kept.
	Credentials []gitlab.Credentials
	// Platform is what the job demands ("linux/arm64", "arm64/v8"); empty: the sandbox's.
	Platform string
	// Trusted says that the administrator named the image: only then may it be a path on the host.
	Trusted bool
}

// Base is the leased base of an image.
type Base struct {
	Image  string // as asked for
	Digest string // of the manifest, "sha256:..."
	Root   isolation.Root
	Pulled bool  // false: it was in the cache
	Bytes  int64 // transferred for this request
	// Warnings say what of the image a sandbox does not have. Each is one warning for the job log.
	Warnings []string
}

// ScratchRequest asks for a scratch.
type ScratchRequest struct {
	ID   string
	Size int64 // bytes
	Form isolation.ScratchForm
}

// Scratch is a job's writable layer: a mounted directory or a disk image, as was asked for.
type Scratch struct {
	Dir, Disk string
}

// Networks attaches sandboxes: package isolation/network.
type Networks interface {
	// Attach makes the sandbox's network and returns what its runtime needs. When it fails, nothing is left.
	Attach(ctx context.Context, id, mode string, form isolation.NetworkForm) (isolation.Network, error)
	// Detach removes it; it succeeds when there is none.
	Detach(ctx context.Context, id string) error
	// Attached lists the sandbox ids that have something attached, those of earlier processes included.
	Attached(ctx context.Context) ([]string, error)
}

// Patient is what a Networks is too that cannot detach a sandbox while it lives: on Windows, where an endpoint belongs to
// its container. It is then asked when the sandbox is gone, and not beside its end.
type Patient interface {
	DetachesAfterSandbox()
}

// Journal records intents before effects, so that a successor can undo them: package jobs/store.
type Journal interface {
	// Begin records that a sandbox is about to be made for a job.
	Begin(ctx context.Context, rec Record) error
	// Intend records, before it happens, that the sandbox id is about to own the effect.
	Intend(ctx context.Context, id string, effect Effect) error
	// End forgets the sandbox: everything it owned is gone. Unknown ids are fine.
	End(ctx context.Context, id string) error
	// Records returns all sandboxes not ended, oldest first.
	Records(ctx context.Context) ([]Record, error)
}

// Effect is a kind of thing a sandbox owns on the host; its name is the sandbox's id.
type Effect string

// The effects, in the order in which a job acquires them. They are undone in reverse.
const (
	EffectLease     Effect = "lease"
	EffectScratch   Effect = "scratch"
	EffectNetwork   Effect = "network"
	EffectContainer Effect = "sandbox"
	// EffectRunnerDir is the runner's temporary directory with the job response in it (its name is the path). It becomes the
	// sandbox's when the runner was seen to end.
	EffectRunnerDir Effect = "runner-dir"
)

// Record is the journal's entry of one sandbox. It never holds a secret.
type Record struct {
	ID        string          `json:"id"`
	JobID     int64           `json:"job_id"`
	Handle    string          `json:"handle"` // hash of the handle, never the handle itself
	Level     isolation.Level `json:"level"`
	Executor  string          `json:"executor"` // instance of the executor process
	RunnerDir string          `json:"runner_dir,omitempty"`
	// RunnerUID owns RunnerDir: the reaper removes no directory of another user.
	RunnerUID   uint32   `json:"runner_uid,omitempty"`
	CreatedUnix int64    `json:"created_unix"`
	Effects     []Effect `json:"effects"`
	// EarlierBoot says that the host was started again since: what the kernel held for the sandbox
	// is gone, only files can be left. The journal fills it in.
	EarlierBoot bool `json:"-"`
}

// RunnerTempDir is a directory in which GitLab Runner makes its temporary ones, and the user it does so as.
type RunnerTempDir struct {
	Path string
	UID  uint32
}
