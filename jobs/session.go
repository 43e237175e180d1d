package jobs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// Why a session ended; the causes of its context.
var (
	errCleanedUp = errors.New("the job was cleaned up")
	errFinished  = errors.New("the command has ended")
	errShutdown  = errors.New("the executor is shutting down")
	errOrphaned  = errors.New("the job's runner is gone")
	errFailed    = errors.New("the sandbox could not be made")
)

// session is one sandbox's owner from the first journal entry to the last thing destroyed.
type session struct {
	id      string
	handle  string // hashed; empty for `airlock run`
	jobID   int64
	project string
	dir     string // the project's directory in the sandbox
	created time.Time
	log     zerolog.Logger

	// ctx lives as long as the sandbox may be used; its cause says why it ended.
	ctx context.Context
	end context.CancelCauseFunc
	// prepared is closed when prepare has returned, well or not; gone when nothing is left.
	prepared chan struct{}
	gone     chan struct{}
	// ending makes the first who ends the session do it alone.
	ending sync.Once
	endErr error

	decision policy.Decision
	base     Base
	helper   bool // the sandbox has a helper root
	network  isolation.Network
	runtime  isolation.Runtime
	begun    bool // the sandbox: there may be something of it, whether there is a sandbox or not
	sandbox  isolation.Sandbox
	grace    time.Duration
	steps    []*api.Step
	overtime *time.Timer // ends the session when the decision's time-out has passed; nil without one

	mu     sync.Mutex
	stage  string
	calls  int
	idleAt time.Time
	runner *processWatch
	// abandoned says that the runner has ended and left its directory to the reaper, which forgets the job with it.
	abandoned atomic.Bool
}

func (s *Service) newSession(handle gitlab.Handle, job *gitlab.JobResponse) *session {
	sess := &session{
		id: newSandboxID(), created: time.Now(), idleAt: time.Now(),
		prepared: make(chan struct{}), gone: make(chan struct{}),
	}
	if handle != "" {
		sess.handle = hashHandle(handle)
	}
	if job != nil {
		sess.jobID = job.ID
		sess.dir = job.ProjectDir(isolation.BuildsDir)
		if job.JobInfo.ProjectFullPath != nil {
			sess.project = *job.JobInfo.ProjectFullPath
		}
	}
	sess.ctx, sess.end = context.WithCancelCause(context.Background())
	sess.log = s.log.With().Int64("job_id", sess.jobID).Str("sandbox", sess.id).Logger()
	return sess
}

// step runs one step of prepare and keeps how long it took.
func (sess *session) step(name string, f func() error) error {
	start := time.Now()
	err := f()
	sess.mu.Lock()
	defer sess.mu.Unlock()
	sess.steps = append(sess.steps, &api.Step{Name: name, Nanoseconds: int64(time.Since(start))})
	return err
}

// enter marks a call on the session, so that a job in use is never taken for an orphan.
func (sess *session) enter(stage string, runnerPID int) (leave func()) {
	sess.mu.Lock()
	defer sess.mu.Unlock()
	sess.calls++
	sess.stage = stage
	if runnerPID > 0 {
		sess.runner.close()
		sess.runner = watchProcess(runnerPID)
	}
	return func() {
		sess.mu.Lock()
		defer sess.mu.Unlock()
		sess.calls--
		sess.idleAt = time.Now()
		if sess.calls == 0 {
			sess.stage = ""
		}
	}
}

// orphaned reports whether nobody will call any more.
func (sess *session) orphaned(now time.Time, settings Settings) bool {
	if sess.handle == "" {
		return false // its caller's connection is its life
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if sess.calls > 0 {
		return false
	}
	idle := now.Sub(sess.idleAt)
	return idle > settings.IdleTimeout || idle > settings.OrphanTimeout && sess.runner.dead()
}

// runnerEnded reports whether the job's runner was seen to live and has ended since. Of one that was never seen, in a container
// with process ids of its own say, nobody can tell.
func (sess *session) runnerEnded() bool {
	sess.mu.Lock()
	defer sess.mu.Unlock()
	return sess.runner != nil && sess.runner.dead()
}

// state names the session's state for administrators.
func (sess *session) state() string {
	select {
	case <-sess.prepared:
	default:
		return "preparing"
	}
	if sess.ctx.Err() != nil {
		return "ending"
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	if sess.calls > 0 {
		return "running"
	}
	return "idle"
}
