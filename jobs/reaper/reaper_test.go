package reaper_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// shelf is a Resource that keeps its things in memory.
type shelf struct {
	kind string

	mu      sync.Mutex
	things  map[string]bool
	removed *[]string // "kind name", shared by all shelves
	onList  func()
	listErr error
	// destroy replaces the removal when not nil.
	destroy func(ctx context.Context, name string) error
}

func (s *shelf) Kind() string { return s.kind }

func (s *shelf) List(context.Context) ([]string, error) {
	if s.onList != nil {
		s.onList()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.things {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, s.listErr
}

func (s *shelf) Destroy(ctx context.Context, name string) error {
	if s.destroy != nil {
		if err := s.destroy(ctx, name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.things, name)
	*s.removed = append(*s.removed, s.kind+" "+name)
	return nil
}

// host is a journal and one shelf of each kind.
type host struct {
	journal *store.Memory
	shelves map[string]*shelf
	removed []string
	live    map[string]bool
	log     syncbuf.Buffer
}

func newHost() *host {
	h := &host{journal: store.NewMemory(), shelves: map[string]*shelf{}, live: map[string]bool{}}
	for _, kind := range []string{"lease", "scratch", "network", "sandbox", "runner-dir"} {
		h.shelves[kind] = &shelf{kind: kind, things: map[string]bool{}, removed: &h.removed}
	}
	return h
}

// own gives a sandbox one thing of each of the kinds, journaled if recorded.
func (h *host) own(t testing.TB, id string, recorded bool, kinds ...string) {
	if recorded {
		require.NoError(t, h.journal.Begin(t.Context(), jobs.Record{ID: id}))
	}
	for _, kind := range kinds {
		if recorded {
			require.NoError(t, h.journal.Intend(t.Context(), id, jobs.Effect(kind)))
		}
		h.shelves[kind].things[id] = true
	}
}

func (h *host) reaper(t testing.TB, o reaper.Options) *reaper.Reaper {
	o.Journal, o.Logger = h.journal, zerolog.New(&h.log)
	if o.Live == nil {
		o.Live = func() map[string]bool { return h.live }
	}
	for _, s := range h.shelves {
		o.Resources = append(o.Resources, s)
	}
	r, err := reaper.New(o)
	require.NoError(t, err)
	return r
}

func (h *host) recorded(t testing.TB) (ids []string) {
	records, err := h.journal.Records(t.Context())
	require.NoError(t, err)
	for _, rec := range records {
		ids = append(ids, rec.ID)
	}
	return ids
}

func TestPassRemovesTheDeadOnly(t *testing.T) {
	h := newHost()
	h.own(t, "al-dead", true, "lease", "scratch", "network", "sandbox")
	h.own(t, "al-live", true, "lease", "scratch", "network", "sandbox")
	h.own(t, "al-lost", false, "sandbox", "scratch")
	h.live["al-live"] = true
	r := h.reaper(t, reaper.Options{})

	dry, err := r.Pass(t.Context(), true)
	require.NoError(t, err)
	require.Empty(t, h.removed, "a dry run removes nothing")
	require.Len(t, dry, 7)
	for _, l := range dry {
		require.False(t, l.Removed)
		require.NotEqual(t, "al-live", l.Sandbox)
	}

	done, err := r.Pass(t.Context(), false)
	require.NoError(t, err)
	require.Len(t, done, 7)
	for i, l := range done {
		require.True(t, l.Removed)
		require.Equal(t, dry[i].Name, l.Name)
	}
	require.Equal(t, []string{
		"sandbox al-dead", "network al-dead", "scratch al-dead", "lease al-dead", "sandbox al-lost", "scratch al-lost",
	}, h.removed)
	require.Equal(t, []string{"al-live"}, h.recorded(t))

	again, err := r.Pass(t.Context(), false)
	require.NoError(t, err)
	require.Empty(t, again)
}

func TestFailureStopsItsSandboxOnly(t *testing.T) {
	h := newHost()
	h.own(t, "al-a", true, "lease", "scratch", "network", "sandbox")
	h.own(t, "al-b", true, "scratch")
	stuck := errors.New("device or resource busy")
	h.shelves["network"].destroy = func(_ context.Context, name string) error {
		if name == "al-a" {
			return stuck
		}
		return nil
	}
	r := h.reaper(t, reaper.Options{})
	left, err := r.Pass(t.Context(), false)
	require.NoError(t, err)
	require.Equal(t, []string{"sandbox al-a", "scratch al-b"}, h.removed, "the scratch may be in use while the network is")
	require.Equal(t, []string{"al-a"}, h.recorded(t))
	require.ErrorIs(t, left[1].Err, stuck)
	require.False(t, left[1].Removed)

	h.shelves["network"].destroy = nil
	_, err = r.Pass(t.Context(), false)
	require.NoError(t, err)
	require.Empty(t, h.recorded(t), "an administrator's pass tries at once")
}

func TestRecordedEffectWithoutResource(t *testing.T) {
	h := newHost()
	h.own(t, "al-a", true, "lease")
	delete(h.shelves, "lease")
	left, err := h.reaper(t, reaper.Options{}).Pass(t.Context(), false)
	require.NoError(t, err)
	require.ErrorContains(t, left[0].Err, "nothing here can remove a lease")
	require.Equal(t, []string{"al-a"}, h.recorded(t))
}

func TestListingFailure(t *testing.T) {
	h := newHost()
	h.own(t, "al-lost", false, "sandbox", "network", "scratch")
	h.own(t, "al-dead", true, "scratch")
	h.shelves["network"].listErr = errors.New("netlink is down")
	left, err := h.reaper(t, reaper.Options{}).Pass(t.Context(), false)
	require.ErrorContains(t, err, "netlink is down")
	require.Equal(t, []string{"scratch al-dead", "sandbox al-lost"}, h.removed,
		"a scratch that is only seen waits for the network that may be there")
	require.Len(t, left, 2)
}

func TestJournalFailure(t *testing.T) {
	h := newHost()
	h.own(t, "al-lost", false, "sandbox")
	r, err := reaper.New(reaper.Options{
		Journal: store.NewFailing(errors.New("input/output error")), Logger: zerolog.Nop(),
		Resources: []reaper.Resource{h.shelves["sandbox"]}, Live: func() map[string]bool { return nil },
	})
	require.NoError(t, err)
	_, err = r.Pass(t.Context(), false)
	require.ErrorContains(t, err, "input/output error")
	require.Empty(t, h.removed)
}

func TestNotYetIsQuiet(t *testing.T) {
	h := newHost()
	require.NoError(t, h.journal.Begin(t.Context(), jobs.Record{ID: "al-a", RunnerDir: dir1}))
	h.shelves["runner-dir"].things[dir1] = true
	h.shelves["runner-dir"].destroy = func(context.Context, string) error { return reaper.ErrNotYet }
	left, err := h.reaper(t, reaper.Options{}).Pass(t.Context(), false)
	require.NoError(t, err)
	require.ErrorIs(t, left[0].Err, reaper.ErrNotYet)
	require.Equal(t, []string{"al-a"}, h.recorded(t), "the record is what remembers the directory")
	require.NotContains(t, h.log.String(), `"level":"error"`)
}

// TestRunRetriesQuietly lets a removal fail for an hour of fake time.
func TestRunRetriesQuietly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.own(t, "al-a", true, "scratch")
		var attempts atomic.Int64
		var repaired atomic.Bool
		h.shelves["scratch"].destroy = func(context.Context, string) error {
			attempts.Add(1)
			if repaired.Load() {
				return nil
			}
			return errors.New("busy")
		}
		r := h.reaper(t, reaper.Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx, time.Minute) }()

		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		require.Greater(t, attempts.Load(), int64(4))
		require.Less(t, attempts.Load(), int64(12), "the pauses grow")
		require.Equal(t, 1, strings.Count(h.log.String(), `"level":"error"`))
		repaired.Store(true)
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		require.Empty(t, h.recorded(t), "the longest pause is a quarter of an hour")
		cancel(nil)
		<-done
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		for _, id := range []string{"al-a", "al-b", "al-c", "al-d"} {
			h.own(t, id, true, "scratch")
		}
		h.shelves["scratch"].destroy = func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		r := h.reaper(t, reaper.Options{Deadline: 25 * time.Second, StepDeadline: 10 * time.Second})
		start := time.Now()
		left, err := r.Pass(t.Context(), false)
		require.ErrorContains(t, err, "the reaper's pass took longer than 25s")
		require.Equal(t, 25*time.Second, time.Since(start))
		require.ErrorContains(t, left[0].Err, "a step of the reaper took longer than 10s")
		require.Len(t, h.recorded(t), 4)
	})
}

func TestNewRefusesConfusedResources(t *testing.T) {
	h := newHost()
	_, err := reaper.New(reaper.Options{Resources: []reaper.Resource{h.shelves["lease"], h.shelves["lease"]}})
	require.ErrorContains(t, err, "two resources")
	for _, kind := range []string{"record", "vm"} {
		_, err = reaper.New(reaper.Options{Resources: []reaper.Resource{&shelf{kind: kind}}})
		require.ErrorContains(t, err, "unknown kind")
	}
}
