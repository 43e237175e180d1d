package oci

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
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
func newBench(t *testing.T, runtime string) *bench {
	t.Helper()
	n := counter.Add(1)
	b := &bench{runtime: runtime, dir: t.TempDir(), parent: fmt.Sprintf("%s/%d-%d", testParent, os.Getpid(), n)}
	before := takeLedger(t)
	t.Cleanup(func() {
		require.Equal(t, before, takeLedger(t), "the test leaves something on the host")
	})
	return b
}

func (b *bench) newRuntime(t *testing.T) *Runtime {
	t.Helper()
	r, err := New(Options{
		Runtime: b.runtime, AgentPath: shared.agent, RunDir: filepath.Join(b.dir, "run"), CgroupParent: b.parent,
		Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
	require.NoError(t, err)
	return r
}

func (b *bench) spec(t *testing.T) isolation.Spec {
	t.Helper()
	n := counter.Add(1)
	scratch := filepath.Join(b.dir, fmt.Sprintf("scratch-%d", n))
	require.NoError(t, os.Mkdir(scratch, 0o755))
	config := func(greeting string) isolation.ImageConfig {
		return isolation.ImageConfig{Env: []string{"PATH=" + rootfs.Path, "GREETING=" + greeting}}
	}
	return isolation.Spec{
		ID: fmt.Sprintf("al-%05d%07d", os.Getpid()%100000, n), Hostname: "sandbox", ScratchDir: scratch,
		Image:  isolation.Root{Layers: []string{shared.image}, Config: config("image")},
		Helper: &isolation.Root{Layers: []string{shared.helper}, Config: config("helper")},
	}
}

// conformance is the bench as the suite wants it.
func (b *bench) conformance() conformance.RuntimeEnv {
	return conformance.RuntimeEnv{
		New:  func(t *testing.T) isolation.Runtime { return b.newRuntime(t) },
		Spec: b.spec,
		BaseFingerprint: func(t *testing.T) string {
			return fingerprint(t, shared.image) + fingerprint(t, shared.helper)
		},
		ScratchHas: func(t *testing.T, spec isolation.Spec, path string) bool {
			_, err := os.Lstat(filepath.Join(spec.ScratchDir, "upper", path))
			return err == nil
		},
		Leftovers: b.leftovers,
	}
}

// leftovers are the traces of one sandbox.
func (b *bench) leftovers(t *testing.T, id string) []string {
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

func takeLedger(t *testing.T) ledger {
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

// fingerprint is a hash of all names, modes, owners and contents below dir.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	hash := sha256.New()
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(hash, path, info.Mode(), stat.Uid, stat.Gid, stat.Nlink, info.ModTime())
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		hash.Write(content)
		return err
	}))
	return fmt.Sprintf("%x", hash.Sum(nil))
}
