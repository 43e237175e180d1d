package conformance

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

func testLifeCycle(t testing.TB, env RuntimeEnv) {
	runtime := env.New(t)
	require.NotEmpty(t, runtime.Name())
	require.Contains(t, []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel}, runtime.Level())

	spec := env.Spec(t)
	sandbox, err := runtime.Create(deadline(t), spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, sandbox.ID())
	ids, err := runtime.List(deadline(t))
	require.NoError(t, err)
	require.Contains(t, ids, spec.ID)
	select {
	case <-sandbox.Done():
		require.Fail(t, "a living sandbox says that it has ended")
	default:
	}
	b := box{sandbox, spec, env.system()}
	require.Equal(t, "hello\n", b.run(t, b.say("hello")).lines())
	p := b.living(t)
	stats, err := sandbox.Stats(deadline(t))
	require.NoError(t, err)
	require.Positive(t, stats.Memory)
	require.Positive(t, stats.PIDs)
	require.Positive(t, stats.CPU)
	require.Zero(t, stats.OOMKills)

	errs := make(chan error, 2) // at once, and once more
	for range 2 {
		go func() { errs <- sandbox.Destroy(context.Background()) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	require.NoError(t, sandbox.Destroy(deadline(t)))
	<-sandbox.Done()
	_, err = wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	require.Empty(t, env.Leftovers(t, spec.ID))
	ids, err = runtime.List(deadline(t))
	require.NoError(t, err)
	require.NotContains(t, ids, spec.ID)
	_, err = sandbox.Start(deadline(t), b.exit(0))
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	_, err = sandbox.Stats(deadline(t))
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

func testDestroyRunning(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.living(t)
	require.NoError(t, b.Destroy(deadline(t)))
	require.Empty(t, env.Leftovers(t, b.spec.ID))
	_, err := wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

func testDestroyByID(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.living(t)

	successor := env.New(t)
	ids, err := successor.List(deadline(t))
	require.NoError(t, err)
	require.Contains(t, ids, b.spec.ID)
	require.NoError(t, successor.Destroy(deadline(t), b.spec.ID))
	require.Empty(t, env.Leftovers(t, b.spec.ID))
	_, err = wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	select {
	case <-b.Done():
	case <-time.After(runtimeTimeout):
		require.Fail(t, "the sandbox does not notice its end")
	}
	require.NoError(t, successor.Destroy(deadline(t), b.spec.ID), "once more")
	require.NoError(t, successor.Destroy(deadline(t), "al-000000000000"), "one that never was")
	require.Error(t, successor.Destroy(deadline(t), "../etc"))
}

func testCreateFails(t testing.TB, env RuntimeEnv) {
	absent := env.system().places().absent
	specs := map[string]func(*isolation.Spec){
		"bad id":          func(s *isolation.Spec) { s.ID = "../x" },
		"missing layer":   func(s *isolation.Spec) { s.Image.Layers, s.Image.Disk = []string{absent}, absent },
		"missing scratch": func(s *isolation.Spec) { s.ScratchDir, s.ScratchDisk = absent, absent },
	}
	maps.Copy(specs, env.system().refused())
	for name, edit := range specs {
		spec := env.Spec(t)
		edit(&spec)
		_, err := env.New(t).Create(deadline(t), spec)
		require.Error(t, err, name)
		require.Empty(t, env.Leftovers(t, spec.ID), name)
	}
	spec := env.Spec(t)
	why := errors.New("the caller gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := env.New(t).Create(ctx, spec)
	require.ErrorIs(t, err, why)
	require.Empty(t, env.Leftovers(t, spec.ID))
}

func testIDTaken(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	again := env.Spec(t)
	again.ID = b.spec.ID
	_, err := env.New(t).Create(deadline(t), again)
	require.Error(t, err)
	require.Equal(t, "alive\n", b.run(t, b.say("alive")).lines())
}

// testScratch: what a sandbox writes is seen in it, and neither in the base nor in the next sandbox.
func testScratch(t testing.TB, env RuntimeEnv) {
	if env.Windows != nil && !env.Windows.Separate {
		return // all share one C:, whose writes are nobody's
	}
	before := env.BaseFingerprint(t)
	b := newBox(t, env)
	where := b.places()
	require.Zero(t, b.run(t, b.write(where.own, "mine")).Code)
	require.Equal(t, "mine", b.run(t, b.read(where.own)).stdout)
	if where.image != "" {
		require.Equal(t, where.imageText, b.run(t, b.read(where.image)).stdout)
		require.Zero(t, b.run(t, b.write(where.image, "changed")).Code)
		require.Equal(t, "changed", b.run(t, b.read(where.image)).stdout)
	}
	require.Equal(t, before, env.BaseFingerprint(t))

	other := newBox(t, env)
	require.NotZero(t, other.run(t, other.read(where.own)).Code)
	if where.image != "" {
		require.Equal(t, where.imageText, other.run(t, other.read(where.image)).stdout)
	}
}
