package oci

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/testing/conformance"
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
	n := counter.Add(1)
	b := &bench{runtime: runtime, dir: t.TempDir(), parent: fmt.Sprintf("%s/%d-%d", testParent, os.Getpid(), n)}
	before := takeLedger(t)
	t.Cleanup(func() {
		require.Equal(t, before, takeLedger(t), "the test leaves something on the host")
	})
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
	var found []string
	require.NoError(t, filepath.WalkDir(filepath.Join(b.dir, "run"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, id) {
			found = append(found, path)
		}
		return err
	}))
	now := takeLedger(t)
	for _, line := range append(now.mounts, now.cgroups...) {
		if strings.Contains(line, id) {
			found = append(found, line)
		}
	}
	memberships, err := filepath.Glob("/proc/[0-9]*/cgroup")
	require.NoError(t, err)
	for _, path := range memberships {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), id) {
			found = append(found, path)
		}
	}
	return found
}

// ledger is what of a host's state containers may leave behind, as far as it is this process's: its mounts, its
// cgroups, its children, its open files.
type ledger struct {
	mounts, cgroups, children, files []string
}

func takeLedger(t testing.TB) ledger {
	t.Helper()
	var l ledger
	file, err := os.Open("/proc/self/mountinfo")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		l.mounts = append(l.mounts, strings.Fields(lines.Text())[4])
	}
	groups, err := cgroup.New(testParent)
	require.NoError(t, err)
	for _, parent := range groups.Parents() {
		entries, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%d-*", os.Getpid()), "*"))
		for _, entry := range entries {
			if info, err := os.Stat(entry); err == nil && info.IsDir() {
				l.cgroups = append(l.cgroups, entry)
			}
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	require.NoError(t, err)
	l.children = strings.Fields(string(children))
	descriptors, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, d := range descriptors {
		if target, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && !strings.Contains(target, "/proc/") {
			l.files = append(l.files, strings.TrimRight(target, "0123456789[]"))
		}
	}
	slices.Sort(l.files)
	return l
}
