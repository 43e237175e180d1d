package oci

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/conformance"
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

// leftovers are the traces of one sandbox.
func (b *bench) leftovers(t testing.TB, id string) []string {
	t.Helper()
	return runtimetest.Leftovers(t, testParent, filepath.Join(b.dir, "run"), id)
}
