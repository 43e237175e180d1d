package reaper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/airlock-ci/airlock/jobs"
)

type passOptions struct {
	dryRun bool
	// patient leaves alone what failed lately.
	patient bool
}

func (r *Reaper) pass(ctx context.Context, o passOptions) ([]Leftover, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.deadline, fmt.Errorf("the reaper's pass took longer than %s", r.deadline))
	defer cancel()

	steps, surveyErr := r.survey(ctx)
	if o.dryRun {
		return describe(steps), surveyErr
	}
	leftovers := r.execute(ctx, steps, o.patient)
	if ctx.Err() != nil {
		return leftovers, errors.Join(surveyErr, context.Cause(ctx))
	}
	return leftovers, surveyErr
}

// survey returns what to remove. It looks at reality first, at the journal second and at the living last, and
// that order is what makes it safe to run beside jobs that begin and end:
//
// A job registers as living, then writes the journal, then acts; at its end it undoes, then clears the journal,
// then stops being living. So whoever owns a thing that is seen here was living before it was seen. If it is
// still living at the last look, it is spared. If it is not, its job ended meanwhile, and with ids never used
// twice nobody will own that name again: removing it is at worst removing nothing. Had the living been read
// first, a job that began between the two looks would be seen by its things and not among the living.
func (r *Reaper) survey(ctx context.Context) ([]Step, error) {
	found, listErr := r.list(ctx)
	records, err := r.journal.Records(ctx)
	if err != nil {
		r.complain("journal", err, "the reaper cannot read the journal: nothing is removed")
		return nil, errors.Join(listErr, fmt.Errorf("reading the journal: %w", err))
	}
	r.complaints.solved("journal")
	return Plan(records, found, r.live()), listErr
}

// list asks the resources in undo order. After one that fails, the later kinds are not asked: what comes later
// in that order must not go while something before it may be there unseen.
func (r *Reaper) list(ctx context.Context) ([]Found, error) {
	var found []Found
	var failed error
	for _, kind := range undoOrder() {
		resource := r.resources[kind]
		if resource == nil || failed != nil && kind != string(jobs.EffectRunnerDir) {
			continue
		}
		names, err := r.listOne(ctx, resource)
		key := "list " + kind
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("listing kind %s: %w", kind, err))
			r.complain(key, err, "the reaper cannot list a kind of resource")
			continue
		}
		r.complaints.solved(key)
		for _, name := range names {
			found = append(found, Found{kind, name})
		}
	}
	return found, failed
}

func (r *Reaper) listOne(ctx context.Context, resource Resource) ([]string, error) {
	ctx, cancel := r.stepContext(ctx)
	defer cancel()
	return resource.List(ctx)
}

func (r *Reaper) stepContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.stepDeadline, fmt.Errorf("a step of the reaper took longer than %s", r.stepDeadline))
}

// describe turns the steps of a dry run into leftovers.
func describe(steps []Step) []Leftover {
	var leftovers []Leftover
	for _, step := range steps {
		if step.Seen {
			leftovers = append(leftovers, Leftover{Kind: step.Kind, Name: step.Name, Sandbox: step.Sandbox})
		}
	}
	return leftovers
}

// execute takes the steps. The first one of a sandbox that does not succeed ends the sandbox's turn.
func (r *Reaper) execute(ctx context.Context, steps []Step, patient bool) []Leftover {
	var leftovers []Leftover
	stopped := map[string]bool{}
	for _, step := range steps {
		owner := step.owner()
		if ctx.Err() != nil || stopped[owner] {
			continue
		}
		if patient && r.backoff.resting(owner, time.Now()) {
			stopped[owner] = true
			continue
		}
		err := r.take(ctx, step)
		if err != nil {
			stopped[owner] = true
			r.reportFailure(step, err)
		}
		if step.Seen || err != nil {
			leftovers = append(leftovers, Leftover{Kind: step.Kind, Name: step.Name, Sandbox: step.Sandbox, Removed: err == nil, Err: err})
		}
		if step.Seen && err == nil {
			r.log.Info().Str("kind", step.Kind).Str("name", step.Name).Str("sandbox", step.Sandbox).Msg("removed what no job owned")
		}
	}
	if ctx.Err() == nil {
		r.backoff.retain(stopped)
	}
	return leftovers
}

// owner is whose steps wait for this one.
func (s Step) owner() string {
	if s.Sandbox == "" {
		return s.Name
	}
	return s.Sandbox
}

func (r *Reaper) take(ctx context.Context, step Step) error {
	ctx, cancel := r.stepContext(ctx)
	defer cancel()
	if step.Kind == kindRecord {
		return r.journal.End(ctx, step.Name)
	}
	resource := r.resources[step.Kind]
	if resource == nil {
		return fmt.Errorf("nothing here can remove a %s", step.Kind)
	}
	return resource.Destroy(ctx, step.Name)
}

func (r *Reaper) reportFailure(step Step, err error) {
	if errors.Is(err, ErrNotYet) {
		r.log.Debug().Err(err).Str("kind", step.Kind).Str("name", step.Name).Str("sandbox", step.Sandbox).Msg("left alone for now")
		return
	}
	first, pause := r.backoff.failed(step.owner(), step.Kind, time.Now())
	event := r.log.Debug()
	if first {
		event = r.log.Error()
	}
	event.Err(err).Str("kind", step.Kind).Str("name", step.Name).Str("sandbox", step.Sandbox).Stringer("next_attempt_in", pause).
		Msg("cannot remove what no job owns: it is tried again, and reported again only when it changes")
}

// complain reports a failure of the pass itself, loudly the first time only.
func (r *Reaper) complain(key string, err error, message string) {
	first, _ := r.complaints.failed(key, "", time.Now())
	event := r.log.Debug()
	if first {
		event = r.log.Error()
	}
	event.Err(err).Msg(message)
}
