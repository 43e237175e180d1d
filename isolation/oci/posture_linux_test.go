package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// posture is how a process of a sandbox is confined, as the host's /proc shows it.
type posture struct {
	// SharedNamespaces are those that it has in common with the host.
	SharedNamespaces []string
	// Capabilities are the names of the bounding set, which the effective and permitted sets equal.
	Capabilities []string
	Inheritable  string
	Ambient      string
	NoNewPrivs   string
	Seccomp      string
	OOMScoreAdj  string
	// Descriptors are where its open files lead, without numbers.
	Descriptors []string
	// Writable are the mount points that can be written.
	Writable []string
	// ReadOnly are those that cannot.
	ReadOnly []string
}

// TestPosture compares a stage's process and the agent with what this package promises.
func TestPosture(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	sandbox := bench.box(t, spec)
	p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{Args: []string{"sleep", "2002"}})
	require.NoError(t, err)
	pids := bench.members(t, spec.ID)
	require.Len(t, pids, 2, "the agent and the stage's process")

	want := posture{
		Capabilities: []string{
			"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
			"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
		},
		Inheritable: "0000000000000000", Ambient: "0000000000000000", NoNewPrivs: "1", Seccomp: "2",
		Writable: []string{
			"/", "/.airlock", "/.airlock/helper/.airlock", "/.airlock/helper/builds", "/.airlock/helper/cache",
			"/.airlock/helper/proc", "/.airlock/helper/tmp", "/builds", "/cache", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc",
		},
		SharedNamespaces: []string{"time", "time_for_children", "user"},
	}
	for _, pid := range pids {
		got := readPosture(t, pid)
		for _, path := range []string{"/.airlock/agent", "/.airlock/helper", "/proc/sys", "/sys"} {
			require.Contains(t, got.ReadOnly, path)
		}
		require.NotContains(t, strings.Join(got.Descriptors, " "), bench.dir, "a file of the executor's")
		if pid == pids[0] {
			sockets := slices.DeleteFunc(slices.Clone(got.Descriptors), func(d string) bool { return d != "socket:" })
			require.Len(t, sockets, 1, "the agent has its connection and no other")
		} else {
			require.Subset(t, []string{"/dev/null", "pipe:"}, got.Descriptors)
		}
		got.ReadOnly, got.Descriptors, got.OOMScoreAdj = nil, nil, ""
		require.Equal(t, want, got, "process %d of %v", pid, pids)
	}
	require.NoError(t, p.Signal(t.Context(), 9))
	_, err = p.Wait()
	require.NoError(t, err)
}

func readPosture(t *testing.T, pid int) posture {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	var p posture
	namespaces, err := filepath.Glob("/proc/self/ns/*")
	require.NoError(t, err)
	for _, own := range namespaces {
		name := filepath.Base(own)
		ours, err := os.Readlink(own)
		require.NoError(t, err)
		theirs, err := os.Readlink(filepath.Join(dir, "ns", name))
		require.NoError(t, err)
		if ours == theirs {
			p.SharedNamespaces = append(p.SharedNamespaces, name)
		}
	}
	status := readStatus(t, dir)
	p.Inheritable, p.Ambient, p.NoNewPrivs, p.Seccomp = status["CapInh"], status["CapAmb"], status["NoNewPrivs"], status["Seccomp"]
	require.Equal(t, status["CapBnd"], status["CapEff"])
	require.Equal(t, status["CapBnd"], status["CapPrm"])
	var bits uint64
	_, err = fmt.Sscanf(status["CapBnd"], "%x", &bits)
	require.NoError(t, err)
	for number, name := range capabilityNames {
		if bits&(1<<number) != 0 {
			p.Capabilities = append(p.Capabilities, name)
		}
	}
	slices.Sort(p.Capabilities)
	mounts, err := os.ReadFile(dir + "/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[3], "ro") {
			p.ReadOnly = append(p.ReadOnly, fields[1])
		} else {
			p.Writable = append(p.Writable, fields[1])
		}
	}
	slices.Sort(p.Writable)
	p.Writable = slices.DeleteFunc(p.Writable, func(path string) bool {
		// Masks are /dev/null, which swallows what is written; the other is on version 1 hosts only, see layout.ReadonlyPaths.
		return slices.Contains(layout.MaskedPaths, path) || path == cgroup.Root
	})
	descriptors, err := filepath.Glob(dir + "/fd/*")
	require.NoError(t, err)
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil {
			p.Descriptors = append(p.Descriptors, strings.TrimRight(strings.Split(target, "[")[0], "0123456789"))
		}
	}
	return p
}

// readStatus reads the "Name:\tvalue" lines of a process's status.
func readStatus(t *testing.T, dir string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(dir + "/status")
	require.NoError(t, err)
	status := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		status[name] = strings.TrimSpace(value)
	}
	return status
}
