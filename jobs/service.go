package jobs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Settings are what the administrator may change while jobs run. A job keeps those it was prepared with.
type Settings struct {
	Policy Policy
	// Identities verifies id tokens; nil believes none.
	Identities Identities
	// Image is for jobs that name none; empty refuses them.
	Image string
	// HelperImage is the helper root's; empty runs the runner's own stages in the job's image.
	HelperImage string
	// GracefulKillTimeout is the time between SIGTERM and SIGKILL for a cancelled stage.
	GracefulKillTimeout time.Duration
	// IdleTimeout ends a job that no call came for, when its runner is still there; a job whose runner is
	// gone ends after OrphanTimeout. A runner calls stage after stage, so both are far above any pause.
	IdleTimeout, OrphanTimeout time.Duration
}

// Options are a Service's parts.
type Options struct {
	Settings Settings
	Layers   Layers
	Networks Networks
	Runtimes []isolation.Runtime
	// Unavailable says, for a level without a runtime, why this host has none.
	Unavailable map[isolation.Level]error
	Journal     Journal
	// Audit may be nil: then nothing is kept.
	Audit  Audit
	Logger zerolog.Logger
	// Version is Airlock's, for the job log; Instance is the executor process's random name.
	Version, Instance string
}

// Service runs jobs. It is safe for concurrent use.
type Service struct {
	settings atomic.Pointer[Settings]
	layers   Layers
	networks Networks
	runtimes map[isolation.Level]isolation.Runtime
	missing  map[isolation.Level]error
	journal  Journal
	log      zerolog.Logger
	version  string
	instance string
	audit    Audit

	mu       sync.Mutex
	decided  map[decisionKey]int64
	sessions map[string]*session // by sandbox id
	closing  bool
}

// New returns a Service without jobs. It refuses runtimes between which nothing could choose.
func New(o Options) (*Service, error) {
	runtimes, err := byLevel(o.Runtimes)
	if err != nil {
		return nil, err
	}
	s := &Service{
		layers: o.Layers, networks: o.Networks, journal: o.Journal, log: o.Logger,
		version: o.Version, instance: o.Instance,
		runtimes: runtimes, missing: o.Unavailable,
		sessions: map[string]*session{}, decided: map[decisionKey]int64{}, audit: o.Audit,
	}
	s.Apply(o.Settings)
	return s, nil
}

// byLevel returns the runtimes by their levels. A decision names a level and nothing more, so a second runtime of one could
// not be chosen by anybody; and the reaper, logs and job logs tell runtimes apart by name.
func byLevel(all []isolation.Runtime) (map[isolation.Level]isolation.Runtime, error) {
	chosen, named := map[isolation.Level]isolation.Runtime{}, map[string]bool{}
	for _, r := range all {
		needs := r.Needs()
		switch other := chosen[r.Level()]; {
		case named[r.Name()]:
			return nil, fault.Adminf("two runtimes are called %q", r.Name())
		case other != nil:
			return nil, fault.WithRemedy(fault.Adminf("%s and %s both make sandboxes at level %s, and a decision names a level alone",
				other.Name(), r.Name(), r.Level()), "offer one of them")
		case needs.Root == 0 || needs.Scratch == 0 || needs.Network == 0:
			return nil, fault.Adminf("the runtime %s does not say what it needs", r.Name())
		}
		chosen[r.Level()], named[r.Name()] = r, true
	}
	return chosen, nil
}

// Apply puts new settings in force for jobs that are prepared from now on.
func (s *Service) Apply(settings Settings) { s.settings.Store(&settings) }

// Live returns the ids of all sandboxes that a job owns now, those being made or destroyed included: what
// the reaper must not touch.
func (s *Service) Live() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := make(map[string]bool, len(s.sessions))
	for id := range s.sessions {
		live[id] = true
	}
	return live
}

// Runtime returns the runtime of exactly that level: a missing one is never replaced by a weaker.
func (s *Service) Runtime(level isolation.Level) (isolation.Runtime, error) {
	if r, ok := s.runtimes[level]; ok {
		return r, nil
	}
	refusal := fault.Systemf("this host has no runtime for %s isolation, and the job is not run at a weaker level", level)
	if why := s.missing[level]; why != nil {
		refusal = fault.Systemf("%w: %w", refusal, why)
	}
	return nil, fault.WithRemedy(refusal,
		"see `airlock doctor` on the host for what it can run")
}

// register makes a session findable, or refuses it when its handle is in use or the service is closing.
func (s *Service) register(sess *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fault.Systemf("the executor is shutting down")
	}
	for _, other := range s.sessions {
		if sess.handle != "" && other.handle == sess.handle {
			return fault.Systemf("this job was prepared already: its sandbox is %s", other.id)
		}
	}
	s.sessions[sess.id] = sess
	return nil
}

func (s *Service) unregister(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess.id)
}

// byHandle returns the session of a handle, nil when there is none.
func (s *Service) byHandle(handle gitlab.Handle) *session {
	key := hashHandle(handle)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if sess.handle == key {
			return sess
		}
	}
	return nil
}

// find returns the session that an administrator means: by sandbox id or by job id.
func (s *Service) find(job string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess, ok := s.sessions[job]; ok {
		return sess, nil
	}
	var found []*session
	for _, sess := range s.sessions {
		if job != "" && fmt.Sprint(sess.jobID) == job {
			found = append(found, sess)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fault.WithRemedy(fault.Adminf("no living job or sandbox %q", job), "`airlock ps` lists them")
	default:
		return nil, fault.WithRemedy(fault.Adminf("job %s has %d sandboxes", job, len(found)), "name one by its sandbox id, see `airlock ps`")
	}
}

// all returns the sessions, oldest first.
func (s *Service) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*session, 0, len(s.sessions))
	for _, sess := range s.sessions {
		list = append(list, sess)
	}
	slices.SortFunc(list, func(a, b *session) int { return a.created.Compare(b.created) })
	return list
}

// Close ends every job and returns when nothing of them is left, or with the first thing that would not go.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	var wg sync.WaitGroup
	errs := make(chan error, len(s.all())+1)
	for _, sess := range s.all() {
		wg.Go(func() { errs <- s.end(ctx, sess, errShutdown) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newSandboxID returns a fresh id. Everything that a sandbox owns on the host is named by it.
func newSandboxID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "al-" + hex.EncodeToString(b[:])
}

// hashHandle returns the form in which handles are kept and journaled: a handle lets its holder run code in the job.
func hashHandle(h gitlab.Handle) string {
	sum := sha256.Sum256([]byte(h))
	return hex.EncodeToString(sum[:8])
}
