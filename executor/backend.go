package executor

import (
	"context"
	"io"

	"github.com/airlock-ci/airlock/api"
)

// Backend does what callers ask for. Every error is classified (package fault); its message reaches the job
// log or the administrator. The context of a call is cancelled, with a cause, when its caller disappears.
type Backend interface {
	Version() api.Version
	// Prepare makes a job's sandbox from the job response; it writes the job log's lines to log.
	Prepare(ctx context.Context, req *api.Prepare, jobResponse []byte, log io.Writer) error
	// Run executes a stage's script and returns its status.
	Run(ctx context.Context, req *api.Run, script []byte, streams api.Streams) (status int32, err error)
	// Cleanup destroys the job's sandbox; it is fine when there is none.
	Cleanup(ctx context.Context, req *api.Cleanup) error
	// Sandbox makes a sandbox, runs one command in it and destroys it.
	Sandbox(ctx context.Context, req *api.Sandbox, streams api.Streams) (status int32, err error)
	// Shell runs an interactive command in a living sandbox.
	Shell(ctx context.Context, req *api.Shell, streams api.Streams) (status int32, err error)
	PullImage(ctx context.Context, req *api.Pull, progress io.Writer) error
	ImportImage(ctx context.Context, req *api.Import, tar io.Reader, progress io.Writer) error

	// Events calls emit with each kept log line, then, if follow, with each new one until ctx ends.
	Events(ctx context.Context, job string, follow bool, emit func(json []byte) error) error
	// Administration answers questions.
	Administration

	// Decisions counts what the policy decided since the executor's start.
	Decisions() []*api.DecisionCount
	// Reload reads the configuration again.
	Reload(ctx context.Context) error
	// BoundClasses are the runner classes to which the configuration in force gives a socket of their own. No caller of
	// another socket has one of them.
	BoundClasses() []string
}
