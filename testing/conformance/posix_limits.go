package conformance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// memoryLimit is what the memory test allows, in bytes; the agent's own use is part of it.
const memoryLimit = 128 << 20

func posixMemoryLimit(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) { s.Limits.Memory = memoryLimit })
	// tail keeps what it reads when it finds no line in it.
	r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "head -c 600000000 /dev/zero | tail -n 1 > /dev/null; exit $?"}})
	require.True(t, r.OOM, "%+v", r)
	require.NotZero(t, r.Code)
	stats, err := b.Stats(deadline(t))
	require.NoError(t, err)
	require.Positive(t, stats.OOMKills)
	require.Less(t, stats.Memory, int64(memoryLimit)+1)

	calm := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "echo calm"}})
	require.Equal(t, isolation.Exit{}, calm.Exit, "the next stage is not blamed for it")
}

func posixProcessLimit(t testing.TB, env RuntimeEnv) {
	const limit = 60
	b := newBox(t, env, func(s *isolation.Spec) { s.Limits.PIDs = limit })
	r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "i=0; while [ $i -lt 200 ]; do sleep 1004 & i=$((i+1)); done; echo all"}})
	require.NotContains(t, r.stdout, "all")
	require.NotEmpty(t, r.stderr)
	require.Equal(t, "free\n", b.shell(t, "echo free"), "the stage's processes are gone and their places free")
	stats, err := b.Stats(deadline(t))
	require.NoError(t, err)
	require.LessOrEqual(t, stats.PIDs, int64(limit))
}

func posixCPULimit(t testing.TB, env RuntimeEnv) {
	const cores = 0.25
	b := newBox(t, env, func(s *isolation.Spec) { s.Limits.CPUs = cores })
	before, err := b.Stats(deadline(t))
	require.NoError(t, err)
	began := time.Now()
	b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "timeout 1 sh -c 'while :; do :; done' & timeout 1 sh -c 'while :; do :; done'; wait"}})
	took := time.Since(began)
	after, err := b.Stats(deadline(t))
	require.NoError(t, err)
	used := (after.CPU - before.CPU).Seconds() / took.Seconds()
	require.Less(t, used, 2*cores, "cores in use, over %s", took)
	require.Greater(t, used, cores/10)
}
