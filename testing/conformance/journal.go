// Package conformance says, as tests that take a factory, what every implementation of Airlock's interfaces
// must do: journals, layers, runtimes. The real implementations run it in their own tests, and so do the fakes.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// TestJournal holds an implementation of jobs.Journal to what jobs and jobs/reaper rely on. Each call of open
// returns a fresh, empty journal that lives until t ends.
func TestJournal(t *testing.T, open func(t testing.TB) jobs.Journal) {
	t.Run("keeps a record whole", func(t *testing.T) { journalKeepsRecord(t, open(t)) })
	t.Run("keeps effects in order and once", func(t *testing.T) { journalKeepsEffects(t, open(t)) })
	t.Run("lists oldest first", func(t *testing.T) { journalListsOldestFirst(t, open(t)) })
	t.Run("forgets what ended", func(t *testing.T) { journalForgets(t, open(t)) })
	t.Run("refuses what a successor could not use", func(t *testing.T) { journalRefuses(t, open(t)) })
	t.Run("refuses secrets", func(t *testing.T) { journalRefusesSecrets(t, open(t)) })
	t.Run("hands out copies", func(t *testing.T) { journalHandsOutCopies(t, open(t)) })
	t.Run("obeys an ended context", func(t *testing.T) { journalObeysContext(t, open(t)) })
	t.Run("serves concurrent callers", func(t *testing.T) { journalServesConcurrently(t, open(t)) })
	t.Run("behaves as its model", func(t *testing.T) { journalBehavesAsModel(t, open) })
}

func journalRecord(id string) jobs.Record {
	return jobs.Record{
		ID: id, JobID: 42, Handle: "3f786850e387550fdab836ed7e6dc881de23001b", Level: isolation.ProcessLevel,
		Executor: "executor-1", RunnerDir: "/tmp/custom-executor1", RunnerUID: 998, CreatedUnix: 1_790_000_000,
	}
}

func journalKeepsRecord(t *testing.T, j jobs.Journal) {
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Empty(t, records, "a fresh journal")

	want := journalRecord("al-0123456789ab")
	want.Effects = []jobs.Effect{jobs.EffectRunnerDir}
	require.NoError(t, j.Begin(t.Context(), want))
	records, err = j.Records(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Record{want}, records)
}

func journalKeepsEffects(t *testing.T, j jobs.Journal) {
	require.NoError(t, j.Begin(t.Context(), journalRecord("al-a")))
	for _, effect := range []jobs.Effect{
		jobs.EffectLease, jobs.EffectScratch, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectLease, jobs.EffectContainer,
	} {
		require.NoError(t, j.Intend(t.Context(), "al-a", effect))
	}
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer}, records[0].Effects)
}

func journalListsOldestFirst(t *testing.T, j jobs.Journal) {
	ids := []string{"al-c", "al-a", "al-d", "al-b"}
	for i, id := range ids {
		rec := journalRecord(id)
		rec.CreatedUnix -= int64(i) // a clock that steps back
		require.NoError(t, j.Begin(t.Context(), rec))
	}
	require.NoError(t, j.Intend(t.Context(), "al-c", jobs.EffectLease))
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	var got []string
	for _, rec := range records {
		got = append(got, rec.ID)
	}
	require.Equal(t, ids, got)
}

func journalForgets(t *testing.T, j jobs.Journal) {
	require.NoError(t, j.End(t.Context(), "al-never-begun"))
	require.NoError(t, j.Begin(t.Context(), journalRecord("al-a")))
	require.NoError(t, j.Begin(t.Context(), journalRecord("al-b")))
	require.NoError(t, j.End(t.Context(), "al-a"))
	require.NoError(t, j.End(t.Context(), "al-a"), "a second time")
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, "al-b", records[0].ID)
	require.Error(t, j.Intend(t.Context(), "al-a", jobs.EffectLease), "an effect of a forgotten sandbox")
}

func journalRefuses(t *testing.T, j jobs.Journal) {
	require.Error(t, j.Intend(t.Context(), "al-unknown", jobs.EffectLease))
	require.NoError(t, j.Begin(t.Context(), journalRecord("al-a")))
	require.NoError(t, j.Intend(t.Context(), "al-a", jobs.EffectLease))
	require.Error(t, j.Begin(t.Context(), journalRecord("al-a")), "an id that is in use: its effects would be lost")

	for _, id := range []string{"", "../al-a", "AL-A", "al a"} {
		require.Error(t, j.Begin(t.Context(), journalRecord(id)), "id %q", id)
	}
	for i, dir := range []string{"tmp/custom-executor1", "/tmp/../etc/custom-executor1"} {
		rec := journalRecord(fmt.Sprintf("al-dir%d", i))
		rec.RunnerDir = dir
		require.Error(t, j.Begin(t.Context(), rec), "runner's directory %q", dir)
	}
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, []jobs.Effect{jobs.EffectLease}, records[0].Effects)
}

func journalRefusesSecrets(t *testing.T, j jobs.Journal) {
	handle := gitlab.NewHandle(42)
	rec := journalRecord("al-a")
	rec.Handle = string(handle)
	err := j.Begin(t.Context(), rec)
	require.Error(t, err)
	require.NotContains(t, err.Error(), string(handle))
}

func journalHandsOutCopies(t *testing.T, j jobs.Journal) {
	rec := journalRecord("al-a")
	rec.Effects = []jobs.Effect{jobs.EffectLease}
	require.NoError(t, j.Begin(t.Context(), rec))
	rec.Effects[0] = jobs.EffectNetwork
	for range 2 {
		records, err := j.Records(t.Context())
		require.NoError(t, err)
		require.Equal(t, []jobs.Effect{jobs.EffectLease}, records[0].Effects)
		records[0].Effects[0] = jobs.EffectScratch
	}
}

func journalObeysContext(t *testing.T, j jobs.Journal) {
	require.NoError(t, j.Begin(t.Context(), journalRecord("al-a")))
	cause := errors.New("the job was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	require.ErrorIs(t, j.Begin(ctx, journalRecord("al-b")), cause)
	require.ErrorIs(t, j.Intend(ctx, "al-a", jobs.EffectLease), cause)
	require.ErrorIs(t, j.End(ctx, "al-a"), cause)
	_, err := j.Records(ctx)
	require.ErrorIs(t, err, cause)
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Record{journalRecord("al-a")}, records, "a refused call changes nothing")
}

func journalServesConcurrently(t *testing.T, j jobs.Journal) {
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for worker := range 8 {
		wg.Go(func() {
			for n := range 10 {
				id := fmt.Sprintf("al-%d-%d", worker, n)
				errs <- errors.Join(
					j.Begin(t.Context(), journalRecord(id)),
					j.Intend(t.Context(), id, jobs.EffectLease),
					j.Intend(t.Context(), id, jobs.EffectScratch))
				if n%2 == 0 {
					errs <- j.End(t.Context(), id)
				}
			}
		})
	}
	go func() { wg.Wait(); close(errs) }()
	for err := range errs {
		require.NoError(t, err)
	}
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Len(t, records, 40)
	for _, rec := range records {
		require.Len(t, rec.Effects, 2, rec.ID)
	}
}

// journalBehavesAsModel drives the journal with random calls and compares it with a list after each.
func journalBehavesAsModel(t *testing.T, open func(t testing.TB) jobs.Journal) {
	ids := rapid.SampledFrom([]string{"al-a", "al-b", "al-c", "al-d"})
	effects := rapid.SampledFrom([]jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer})
	rapid.Check(t, func(rt *rapid.T) {
		j := open(t)
		var model []jobs.Record
		index := func(id string) int {
			return slices.IndexFunc(model, func(rec jobs.Record) bool { return rec.ID == id })
		}
		actions := map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				rec := journalRecord(ids.Draw(rt, "id"))
				rec.JobID = rapid.Int64Min(1).Draw(rt, "job")
				err := j.Begin(t.Context(), rec)
				require.Equal(rt, index(rec.ID) < 0, err == nil, "%v", err)
				if err == nil {
					model = append(model, rec)
				}
			},
			"intend": func(rt *rapid.T) {
				id, effect := ids.Draw(rt, "id"), effects.Draw(rt, "effect")
				err := j.Intend(t.Context(), id, effect)
				i := index(id)
				require.Equal(rt, i >= 0, err == nil, "%v", err)
				if i >= 0 && !slices.Contains(model[i].Effects, effect) {
					model[i].Effects = append(model[i].Effects, effect)
				}
			},
			"end": func(rt *rapid.T) {
				id := ids.Draw(rt, "id")
				require.NoError(rt, j.End(t.Context(), id))
				model = slices.DeleteFunc(model, func(rec jobs.Record) bool { return rec.ID == id })
			},
		}
		actions[""] = func(rt *rapid.T) { // rapid runs it after each of the others
			records, err := j.Records(t.Context())
			require.NoError(rt, err)
			require.Len(rt, records, len(model))
			for i := range model {
				require.Equal(rt, model[i], records[i])
			}
		}
		rt.Repeat(actions)
	})
}
