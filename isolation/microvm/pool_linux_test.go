package microvm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// TestWaitingMachines: sandboxes are made of machines that wait, each of one, and nothing of a warm-up is seen in them.
func TestWaitingMachines(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t, func(o *Options) { o.Pool = 1 })
	limits := bench.spec(t).Limits
	seen := map[string]bool{}
	for n := range 2 {
		require.NoError(t, r.Warm(t.Context(), limits, true))
		spec := bench.spec(t)
		spec.Hostname = fmt.Sprintf("sandbox-%d", n)
		name := fmt.Sprintf("almp%d", os.Getpid()%10000)
		spec.Network = isolation.Network{
			Tap: name, TapFile: newTap(t, name), MAC: "02:00:00:00:56:78", Address: "192.0.2.2/24", Gateway: "192.0.2.1", MTU: 1400,
		}
		began := time.Now()
		s := bench.box(t, r, spec)
		require.True(t, s.waited)
		out := shell(t, s, "echo x > /builds/x; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'")
		t.Logf("a first command after %s", time.Since(began))
		for line := range strings.Lines(out) {
			require.False(t, seen[line], "two machines have the same %s", line)
			seen[line] = true
		}
		require.Equal(t, spec.Hostname+"\n", shell(t, s, "hostname"))
		require.Equal(t, "02:00:00:00:56:78\n1400\n", shell(t, s, "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu"))
		require.NotContains(t, shell(t, s, "cat /etc/hosts /etc/hostname /proc/mounts; ls /tmp /builds; find / -xdev -name '*warm-up*'"), "warm-up")
		require.Contains(t, shell(t, s, "df -m /builds | tail -n 1"), " 20") // of the sandbox's 2 GiB, not the warm-up's 16 MiB
		require.NoError(t, s.Destroy(t.Context()))
		require.NoError(t, spec.Network.TapFile.Close())
	}
}

// TestWaitingMachineThatEnded is noticed, and the sandbox is made without.
func TestWaitingMachineThatEnded(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t, func(o *Options) { o.Pool = 1 })
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, false))
	s := shapeOf(bench.spec(t).Limits, isolation.Network{})
	unlock := r.pool.lock()
	v := r.pool.waiting[s][0]
	unlock()
	require.NoError(t, v.command.Process.Kill())
	<-v.exited
	made := bench.box(t, r, bench.spec(t))
	require.False(t, made.waited)
	require.True(t, made.cloned)
	require.Equal(t, "fine\n", shell(t, made, "echo fine"))

	require.Eventually(t, func() bool { // the next one waits again
		defer r.pool.lock()()
		return len(r.pool.waiting[s]) == 1
	}, time.Minute, 10*time.Millisecond)
	unlock = r.pool.lock()
	v = r.pool.waiting[s][0]
	unlock()
	_, err := v.monitor.run(command{Execute: "stop"}) // it runs, and does not answer
	require.NoError(t, err)
	made = bench.box(t, r, bench.spec(t))
	require.False(t, made.waited)
	require.Equal(t, "fine\n", shell(t, made, "echo fine"))
}

// TestPoolOutlivesATemplate: while a template that was of no use is made again, machines wait for it instead of failing,
// or the pool would give up for good.
func TestPoolOutlivesATemplate(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t, func(o *Options) { o.Pool = raiseRetries; o.NoWarmUp = true; o.StateDir = t.TempDir() })
	s := shapeOf(bench.spec(t).Limits, isolation.Network{})
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, false))
	r.templates.discard(r.templates.get(s))
	for range raiseRetries {
		r.pool.take(s).kill()
	}
	r.fill(s, 0)
	require.Eventually(t, func() bool {
		defer r.pool.lock()()
		return len(r.pool.waiting[s]) == raiseRetries || r.pool.failures > 0
	}, time.Minute, 10*time.Millisecond)
	defer r.pool.lock()()
	require.Zero(t, r.pool.failures)
}
