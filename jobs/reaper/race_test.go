package reaper_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

// A job's life as the reaper can meet it: positions in this list of steps.
const (
	unborn = iota
	living // registered as living
	begun  // in the journal
	leased
	scratched
	networked
	running
	stopping // undone in reverse from here on
	unnetworked
	unscratched
	unleased
	ended // out of the journal
	gone  // no longer living
)

// life is one job that moves through those steps, or dies without a trace of it in memory: then its sandbox is
// not living any more, while its things and its record stay.
type life struct {
	id       string
	position int
	crashed  bool
}

// world is the host with its jobs; between any two looks of the reaper any of them may move.
type world struct {
	*host
	rt    *rapid.T
	lives []*life
}

func (w *world) move(l *life) {
	ctx := context.Background()
	if l.crashed || l.position == gone {
		return
	}
	effect := func(kind string) {
		require.NoError(w.rt, w.journal.Intend(ctx, l.id, jobs.Effect(kind)))
		w.shelves[kind].things[l.id] = true
	}
	l.position++
	switch l.position {
	case living:
		w.live[l.id] = true
	case begun:
		require.NoError(w.rt, w.journal.Begin(ctx, jobs.Record{ID: l.id}))
	case leased:
		effect("lease")
	case scratched:
		effect("scratch")
	case networked:
		effect("network")
	case running:
		effect("sandbox")
	case stopping:
		delete(w.shelves["sandbox"].things, l.id)
	case unnetworked:
		delete(w.shelves["network"].things, l.id)
	case unscratched:
		delete(w.shelves["scratch"].things, l.id)
	case unleased:
		delete(w.shelves["lease"].things, l.id)
	case ended:
		require.NoError(w.rt, w.journal.End(ctx, l.id))
	case gone:
		delete(w.live, l.id)
	}
	w.checkIntact(l)
}

// checkIntact holds that a living job still has all that it made.
func (w *world) checkIntact(l *life) {
	if l.crashed || l.position >= stopping {
		return
	}
	for i, kind := range []string{"lease", "scratch", "network", "sandbox"} {
		if l.position >= leased+i {
			require.True(w.rt, w.shelves[kind].things[l.id], "the reaper took the %s of the living %s", kind, l.id)
		}
	}
}

func (w *world) crash(l *life) {
	if l.position >= living && l.position < gone {
		l.crashed = true
		delete(w.live, l.id)
	}
}

// stir moves some jobs by some steps.
func (w *world) stir() {
	for range rapid.IntRange(0, 6).Draw(w.rt, "moves") {
		l := rapid.SampledFrom(w.lives).Draw(w.rt, "job")
		if rapid.IntRange(0, 9).Draw(w.rt, "fate") == 0 {
			w.crash(l)
		} else {
			w.move(l)
		}
	}
}

// stirringJournal lets the world move before and after the reaper reads or writes the journal.
type stirringJournal struct {
	*store.Memory
	w *world
}

func (j stirringJournal) Records(ctx context.Context) ([]jobs.Record, error) {
	j.w.stir()
	defer j.w.stir()
	return j.Memory.Records(ctx)
}

func (j stirringJournal) End(ctx context.Context, id string) error {
	j.w.stir()
	return j.Memory.End(ctx, id)
}

// TestPassBesideLivingJobs lets jobs begin, end and crash between any two actions of a pass. No living job
// loses anything, and two passes over a still world leave nothing of the dead.
func TestPassBesideLivingJobs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{host: newHost(), rt: rt}
		for i := range rapid.IntRange(1, 4).Draw(rt, "jobs") {
			w.lives = append(w.lives, &life{id: fmt.Sprintf("al-%d", i)})
		}
		for _, s := range w.shelves {
			s.onList = w.stir
			s.destroy = func(context.Context, string) error { w.stir(); return nil }
		}
		options := reaper.Options{
			Journal: stirringJournal{w.journal, w}, Logger: zerolog.Nop(),
			Live: func() map[string]bool { w.stir(); return maps.Clone(w.live) },
		}
		for _, s := range w.shelves {
			options.Resources = append(options.Resources, s)
		}
		moving, err := reaper.New(options)
		require.NoError(rt, err)
		for range 3 {
			w.stir()
			_, err := moving.Pass(context.Background(), false)
			require.NoError(rt, err)
			for _, l := range w.lives {
				w.checkIntact(l)
			}
		}

		for _, s := range w.shelves {
			s.onList, s.destroy = nil, nil
		}
		_, err = w.reaper(t, reaper.Options{}).Pass(context.Background(), false)
		require.NoError(rt, err)
		for _, l := range w.lives {
			w.checkIntact(l)
			if !w.live[l.id] {
				require.NotContains(rt, w.recorded(t), l.id)
				for _, s := range w.shelves {
					require.NotContains(rt, s.things, l.id)
				}
			}
		}
	})
}
