package reaper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/jobs"
)

// Resource is one kind of thing that sandboxes own on the host.
type Resource interface {
	// Kind is one of the jobs.Effect constants.
	Kind() string
	// List names all there are in reality, those of earlier processes included: by sandbox id, runner's
	// directories by path.
	List(ctx context.Context) ([]string, error)
	// Destroy removes one by name. It succeeds when there is nothing (left) of that name. It returns
	// ErrNotYet, wrapped, when the thing may still be in use by somebody who is entitled to it.
	Destroy(ctx context.Context, name string) error
}

// ErrNotYet says that a thing is left alone for now; the next pass asks again.
var ErrNotYet = errors.New("not removed yet")

// Journal is what a pass needs of jobs.Journal.
type Journal interface {
	Records(ctx context.Context) ([]jobs.Record, error)
	End(ctx context.Context, id string) error
}

// Options are a Reaper's parts.
type Options struct {
	Journal   Journal
	Resources []Resource
	// Live returns the ids of all sandboxes that a job owns now, those being made or destroyed included. An
	// id must be in it before its record is begun, and stay until its record is ended or its job gives it up.
	Live   func() map[string]bool
	Logger zerolog.Logger
	// Deadline bounds one pass, StepDeadline one listing or removal in it; 0 means 2 min and 30 s.
	Deadline, StepDeadline time.Duration
}

// Leftover is one thing that no living job owned when a pass looked.
type Leftover struct {
	Kind, Name string
	// Sandbox is the id it belonged to; empty when nothing says so.
	Sandbox string
	Removed bool
	// Err says why it is still there: nil in a dry run.
	Err error
}

// Reaper removes what no job owns. It is safe for concurrent use; passes happen one at a time.
type Reaper struct {
	journal      Journal
	resources    map[string]Resource
	live         func() map[string]bool
	log          zerolog.Logger
	deadline     time.Duration
	stepDeadline time.Duration
	turn         chan struct{} // holds one token: the pass that put it in goes on

	// Both are the current pass's alone: the pauses of sandboxes, and of listings.
	backoff, complaints backoff
}

// New returns a Reaper. It fails when two resources share a kind, or a kind is none of a job's effects.
func New(o Options) (*Reaper, error) {
	r := &Reaper{
		journal: o.Journal, resources: map[string]Resource{}, live: o.Live, log: o.Logger,
		deadline: o.Deadline, stepDeadline: o.StepDeadline, turn: make(chan struct{}, 1),
		backoff: backoff{}, complaints: backoff{},
	}
	if r.deadline == 0 {
		r.deadline = 2 * time.Minute
	}
	if r.stepDeadline == 0 {
		r.stepDeadline = 30 * time.Second
	}
	for _, resource := range o.Resources {
		kind := resource.Kind()
		if kind == kindRecord || !slices.Contains(undoOrder(), kind) {
			return nil, fmt.Errorf("reaper: a resource has the unknown kind %q", kind)
		}
		if r.resources[kind] != nil {
			return nil, fmt.Errorf("reaper: two resources have the kind %q", kind)
		}
		r.resources[kind] = resource
	}
	return r, nil
}

// Run passes at once and then every interval until ctx ends. A sandbox that cannot be removed is tried again
// after ever longer pauses, and reported as an error once.
func (r *Reaper) Run(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		_, err := r.pass(ctx, passOptions{patient: true})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.Debug().Err(err).Msg("the reaper's pass was incomplete")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Pass looks once and removes what no living job owns, or in a dry run only says what that is. Things that
// could not be removed are leftovers with an Err; the error says that the pass itself was incomplete.
func (r *Reaper) Pass(ctx context.Context, dryRun bool) ([]Leftover, error) {
	return r.pass(ctx, passOptions{dryRun: dryRun})
}
