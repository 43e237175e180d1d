package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// bench is a run directory with what is made in it.
type bench struct {
	runtime string // "crun" or "runc"
	dir     string
	parent  string // cgroup
}

// counter makes ids and cgroups of this process unique.
var counter atomic.Int64

// newBench makes a bench and checks, when the test ends, that the host is as it was.
func newBench(t testing.TB, runtime string) *bench {
	t.Helper()
	b := &bench{runtime: runtime, dir: t.TempDir(), parent: runtimetest.Cgroup(testParent, counter.Add(1))}
	runtimetest.LeaveNothing(t, testParent)
	return b
}

func (b *bench) newRuntime(t testing.TB) *Runtime {
	t.Helper()
	r, err := New(Options{
		Runtime: b.runtime, AgentPath: shared.agent, RunDir: filepath.Join(b.dir, "run"), CgroupParent: b.parent,
		Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
	require.NoError(t, err)
	return r
}

func (b *bench) spec(t testing.TB) isolation.Spec {
	t.Helper()
	return conformance.Spec(t, shared.image, shared.helper)
}

// conformance is the bench as the suite wants it.
func (b *bench) conformance() conformance.RuntimeEnv {
	return conformance.RuntimeEnv{
		New:  func(t testing.TB) isolation.Runtime { return b.newRuntime(t) },
		Spec: b.spec,
		Image: func(t testing.TB, change func(root string)) isolation.Root {
			root := t.TempDir()
			require.NoError(t, os.Chmod(root, 0o755))
			require.NoError(t, rootfs.Busybox(root))
			change(root)
			image := b.spec(t).Image
			image.Layers = []string{root}
			return image
		},
		Rlimits: hardLimits,
		Quick:   true,
		BaseFingerprint: func(t testing.TB) string {
			return conformance.Fingerprint(t, shared.image, shared.helper)
		},
		ScratchHas: func(t testing.TB, spec isolation.Spec, path string) bool {
			_, err := os.Lstat(filepath.Join(spec.ScratchDir, "upper", path))
			return err == nil
		},
		Leftovers: b.leftovers,
	}
}

// hardLimits are Docker's, unless this process may not grant them.
func hardLimits(t testing.TB) map[string]string {
	t.Helper()
	most := map[string]struct {
		number int
		limit  uint64
	}{"c": {unix.RLIMIT_CORE, layout.Unlimited}, "u": {unix.RLIMIT_NPROC, layout.Unlimited}, "n": {unix.RLIMIT_NOFILE, 1 << 20}}
	unbound, err := mayRaiseLimits()
	require.NoError(t, err)
	limits := map[string]string{}
	for option, m := range most {
		var own unix.Rlimit
		require.NoError(t, unix.Getrlimit(m.number, &own))
		if !unbound {
			m.limit = min(m.limit, own.Max)
		}
		limits[option] = strconv.FormatUint(m.limit, 10)
		if m.limit == layout.Unlimited {
			limits[option] = "unlimited"
		}
	}
	return limits
}

// leftovers are the traces of one sandbox.
func (b *bench) leftovers(t testing.TB, id string) []string {
	t.Helper()
	return runtimetest.Leftovers(t, testParent, filepath.Join(b.dir, "run"), id)
}
