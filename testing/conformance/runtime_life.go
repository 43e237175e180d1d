package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
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
	b := box{sandbox, spec}
	require.Equal(t, "hello\n", b.shell(t, "echo hello"))
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
	require.Empty(t, env.Leftovers(t, spec.ID))
	ids, err = runtime.List(deadline(t))
	require.NoError(t, err)
	require.NotContains(t, ids, spec.ID)
	_, err = sandbox.Start(deadline(t), isolation.ProcessSpec{Args: []string{"true"}})
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	_, err = sandbox.Stats(deadline(t))
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

func testDestroyRunning(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	var stdout syncbuf.Buffer
	p := b.start(t, isolation.ProcessSpec{
		Args:   []string{"sh", "-c", "trap '' TERM INT HUP; setsid sleep 1001 & echo up; while :; do sleep 1; done"},
		Stdout: &stdout,
	})
	require.Eventually(t, func() bool { return stdout.String() == "up\n" }, runtimeTimeout, time.Millisecond)
	require.NoError(t, b.Destroy(deadline(t)))
	require.Empty(t, env.Leftovers(t, b.spec.ID))
	_, err := wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

func testDestroyByID(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.start(t, isolation.ProcessSpec{Args: []string{"sleep", "1002"}})

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
	for name, edit := range map[string]func(*isolation.Spec){
		"bad id":        func(s *isolation.Spec) { s.ID = "../x" },
		"missing layer": func(s *isolation.Spec) { s.Image.Layers, s.Image.Disk = []string{"/does/not/exist"}, "/does/not/exist" },
		"missing scratch": func(s *isolation.Spec) {
			s.ScratchDir, s.ScratchDisk = "/does/not/exist", "/does/not/exist"
		},
		"unknown user": func(s *isolation.Spec) { s.Image.Config.User = "nobody-of-that-name" },
	} {
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
	require.Equal(t, "alive\n", b.shell(t, "echo alive"))
}
