package cleanup

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type key struct{}

// acquire acquires three things, and fails after as many of them as are given.
func acquire(ctx context.Context, most int, released *[]string, failing error) (err error) {
	undo := New(ctx)
	defer undo.Run(&err)
	for n, name := range []string{"first", "second", "third"} {
		if n == most {
			return errors.New("no " + name)
		}
		undo.Push(func() error {
			*released = append(*released, name)
			return failing
		})
	}
	undo.Release()
	return nil
}

func TestReleasesAreRunInReverseAndOnlyAfterAFailure(t *testing.T) {
	for most, want := range [][]string{nil, {"first"}, {"second", "first"}} {
		var released []string
		require.Error(t, acquire(t.Context(), most, &released, nil))
		require.Equal(t, want, released)
	}
	var released []string
	require.NoError(t, acquire(t.Context(), 3, &released, nil))
	require.Empty(t, released, "all went well: what was made stays")
}

func TestAFailingReleaseKeepsNoOtherFromItsWork(t *testing.T) {
	var released []string
	stuck := errors.New("stuck")
	err := acquire(t.Context(), 2, &released, stuck)
	require.Equal(t, []string{"second", "first"}, released)
	require.ErrorIs(t, err, stuck)
	require.Equal(t, "no third\nstuck\nstuck", err.Error(), "the failure itself comes first")
}

func TestAReleaseThatPanicsIsNotRunAgain(t *testing.T) {
	undo, calls, failed := New(t.Context()), 0, error(nil)
	undo.Push(func() error { calls++; return nil })
	undo.Push(func() error { panic("a release") })
	require.Panics(t, func() { undo.Run(&failed) })
	undo.Run(&failed)
	require.Equal(t, 1, calls)
}

// TestReleasesHaveAContextOfTheirOwn: the caller's is usually the reason of the failure.
func TestReleasesHaveAContextOfTheirOwn(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "kept"))
	cancel(errors.New("the job was cancelled"))
	undo, asked, failed := New(ctx), 0, error(nil)
	undo.PushContext(func(ctx context.Context) error {
		asked++
		require.NoError(t, ctx.Err())
		require.Equal(t, "kept", ctx.Value(key{}))
		deadline, has := ctx.Deadline()
		require.True(t, has)
		require.WithinDuration(t, time.Now().Add(limit), deadline, limit/2)
		return nil
	})
	undo.Run(&failed)
	require.NoError(t, failed)
	require.Equal(t, 1, asked)
}
