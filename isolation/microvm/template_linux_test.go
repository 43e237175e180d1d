package microvm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClone(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t)
	spec := bench.spec(t)
	began := time.Now()
	require.NoError(t, r.Warm(t.Context(), spec.Limits, false))
	t.Logf("template made in %s", time.Since(began))
	for range 4 {
		began = time.Now()
		s := bench.box(t, r, bench.spec(t))
		created := time.Since(began)
		stats, err := r.cgroups.Stats(s.id)
		require.NoError(t, err)
		out := shell(t, s, "cat /proc/uptime /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; date")
		t.Logf("answers after %s (%s of CPU), first command ended after %s\n%s", created, stats.CPU, time.Since(began), out)
		began = time.Now()
		shell(t, s, "true")
		t.Logf("second command %s", time.Since(began))
		require.True(t, s.cloned)
	}
}
