package runtimetest

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation/cgroup"
)

// LeaveNothing checks, when the test ends, that the host has nothing on it which was not there before; parent is Main's.
// What has gone meanwhile, such as a file that an earlier test's goroutine held for a moment longer, is nobody's leak.
func LeaveNothing(t testing.TB, parent string) {
	t.Helper()
	before := takeTraces(t, parent)
	t.Cleanup(func() {
		now := takeTraces(t, parent)
		require.Empty(t, slices.Concat(
			added("mount", before.mounts, now.mounts), added("cgroup", before.cgroups, now.cgroups),
			added("child", before.children, now.children), added("open file", before.files, now.files),
		), "the test leaves something on the host")
	})
}

// added lists what is in now more often than before.
func added(kind string, before, now []string) (more []string) {
	had := map[string]int{}
	for _, name := range before {
		had[name]++
	}
	for _, name := range now {
		if had[name]--; had[name] < 0 {
			more = append(more, kind+" "+name)
		}
	}
	return more
}

// traces is what of a host's state sandboxes may leave behind, as far as it is this process's.
type traces struct {
	mounts, cgroups, children, files []string
}

func takeTraces(t testing.TB, parent string) traces {
	t.Helper()
	var now traces
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		now.mounts = append(now.mounts, strings.Fields(line)[4])
	}
	groups, err := cgroup.New(parent)
	require.NoError(t, err)
	for _, dir := range groups.Parents() {
		for _, own := range ownCgroups(dir) {
			entries, _ := os.ReadDir(own)
			for _, entry := range entries {
				if entry.IsDir() {
					now.cgroups = append(now.cgroups, filepath.Join(own, entry.Name()))
				}
			}
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, task := range tasks {
		if children, err := os.ReadFile(task); err == nil {
			now.children = append(now.children, strings.Fields(string(children))...)
		}
	}
	descriptors, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, d := range descriptors {
		if target, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && !strings.Contains(target, "/proc/") {
			now.files = append(now.files, strings.TrimRight(target, "0123456789[]"))
		}
	}
	return now
}

// Leftovers are the traces of one sandbox: in the runtime's directory, among its traces, and of any process.
func Leftovers(t testing.TB, parent, runDir, id string) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(runDir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, id) {
			found = append(found, path)
		}
		return err
	}))
	now := takeTraces(t, parent)
	for _, line := range append(now.mounts, now.cgroups...) {
		if strings.Contains(line, id) {
			found = append(found, line)
		}
	}
	for _, pattern := range []string{"/proc/[0-9]*/cgroup", "/proc/[0-9]*/cmdline"} {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range paths {
			if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), id) {
				found = append(found, path)
			}
		}
	}
	return found
}

// HostTargets starts services on the host for the escape probes to find: a socket in the file system at path, an abstract
// one, and a TCP port on loopback.
func HostTargets(t *testing.T) (path, abstract, address string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "host.sock")
	abstract = fmt.Sprintf("airlock-probe-%d", os.Getpid())
	for _, service := range [][2]string{{"unix", path}, {"unix", "@" + abstract}, {"tcp", "127.0.0.1:0"}} {
		listener, err := net.Listen(service[0], service[1])
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		address = listener.Addr().String()
	}
	return path, abstract, address
}
