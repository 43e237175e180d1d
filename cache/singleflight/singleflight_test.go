package singleflight_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache/singleflight"
)

var errEnded = errors.New("the job has ended")

// newGroup returns a group, and a function that ends its life and waits for its work.
func newGroup(t *testing.T) (*singleflight.Group[int], func()) {
	var background sync.WaitGroup
	life, end := context.WithCancelCause(t.Context())
	return singleflight.NewGroup[int](life, &background), func() {
		end(errEnded)
		background.Wait()
	}
}

func TestEqualWorkIsDoneOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, end := newGroup(t)
		defer end()
		var runs, leaders atomic.Int32
		failed := errors.New("it failed")
		var waiting sync.WaitGroup
		for i := range 5 {
			waiting.Go(func() {
				flight, led := group.Join("key", i, func(context.Context, int) error {
					runs.Add(1)
					time.Sleep(time.Minute)
					return failed
				})
				if led {
					leaders.Add(1)
					require.Equal(t, i, flight.State)
				}
				require.ErrorIs(t, flight.Wait(t.Context()), failed)
			})
		}
		waiting.Wait()
		require.EqualValues(t, 1, runs.Load())
		require.EqualValues(t, 1, leaders.Load())
		flight, led := group.Join("key", 0, func(context.Context, int) error { return nil })
		require.True(t, led, "what is over is done again")
		require.NoError(t, flight.Wait(t.Context()))
	})
}

func TestWorkEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, end := newGroup(t)
		defer end()
		stopped := make(chan error, 1)
		work := func(ctx context.Context, _ int) error {
			<-ctx.Done()
			stopped <- context.Cause(ctx)
			return ctx.Err()
		}
		first, _ := group.Join("key", 0, work)
		second, led := group.Join("key", 0, work)
		require.False(t, led)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnded)
		require.ErrorIs(t, first.Wait(ctx), errEnded)
		synctest.Wait()
		require.Empty(t, stopped, "one still waits")
		require.ErrorIs(t, second.Wait(ctx), errEnded)
		require.ErrorContains(t, <-stopped, "nobody waits for it any more")
		third, led := group.Join("key", 0, func(context.Context, int) error { return nil })
		require.True(t, led, "nobody joins what was given up")
		require.NoError(t, third.Wait(t.Context()))
	})
}

func TestWorkEndsWithItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, end := newGroup(t)
		flight, _ := group.Join("key", 0, func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		end()
		require.ErrorIs(t, flight.Wait(t.Context()), errEnded)
	})
}

func TestWatchersAreCalledWhenTheyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group, end := newGroup(t)
		defer end()
		flight, _ := group.Join("key", 0, func(context.Context, int) error {
			time.Sleep(10 * time.Second)
			return nil
		})
		began := time.Now()
		var ticks []time.Duration
		require.NoError(t, flight.Watch(t.Context(), time.Second, func() time.Duration {
			ticks = append(ticks, time.Since(began))
			return 4 * time.Second
		}))
		require.Equal(t, []time.Duration{time.Second, 5 * time.Second, 9 * time.Second}, ticks)
	})
}
