package oci

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/ownthread"
	"github.com/airlock-ci/airlock/isolation"
)

func TestProgramsAreFoundByNameAndPath(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	install := func(name string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
		return path
	}
	for name, pkg := range map[string]string{"": "crun", "crun": "crun", "runsc": "runsc", "/opt/runsc": "runsc", "/opt/runc": "crun"} {
		_, err := findProgram(name)
		var failure *fault.Error
		require.ErrorAs(t, err, &failure, name)
		require.Contains(t, failure.Remedy, "install the package "+pkg+",", name)
		require.ErrorIs(t, err, isolation.ErrUnsupported)
	}
	runsc := install("runsc")
	_, err := findProgram("")
	require.Error(t, err, "gVisor is never chosen by itself")
	runc := install("runc")
	for name, want := range map[string]string{"": runc, "runc": runc, "runsc": runsc, runsc: runsc} {
		found, err := findProgram(name)
		require.NoError(t, err)
		require.Equal(t, want, found.path, name)
		require.Equal(t, filepath.Base(want), found.name)
		require.Equal(t, want == runsc, found.gvisor)
	}
}

func TestWhatGVisorIsTold(t *testing.T) {
	require.Contains(t, gvisorFlags(isolation.Network{NetNS: "/proc/1/ns/net"}), "--network=none", "loopback alone")
	require.Contains(t, gvisorFlags(isolation.Network{NetNS: "/proc/1/ns/net", Address: "10.0.0.2/24"}), "--network=sandbox")
	gvisor, other := program{name: "runsc", gvisor: true}, program{name: "crun"}
	limits := isolation.Limits{PIDs: 100, Memory: 1 << 20}
	require.Equal(t, limits, other.hostLimits(limits))
	require.Equal(t, isolation.Limits{PIDs: 200 + gvisorThreads, Memory: 1 << 20}, gvisor.hostLimits(limits))
	require.Equal(t, isolation.Limits{}, gvisor.hostLimits(isolation.Limits{}), "no limit stays none")
	failure := errors.New("something else")
	require.Equal(t, failure, gvisor.explain(failure))
}

// TestAGVisorThatIsTooOldForTheKernel: Debian's is for Linux 6.11 and later, if a sandbox is to have a network.
func TestAGVisorThatIsTooOldForTheKernel(t *testing.T) {
	version, err := exec.Command("runsc", "--version").Output()
	require.NoError(t, err)
	day := string(regexp.MustCompile(`20[0-9]{6}`).Find(version))
	major, minor := kernelVersion()
	bench := newBench(t, "runsc")
	spec := bench.spec(t)
	namespace := newNamespace(t)
	spec.Network = isolation.Network{NetNS: namespace, Address: "192.0.2.2/24"} // it has no interface to take an address from
	sandbox, err := bench.newRuntime(t).Create(t.Context(), spec)
	if day >= "20240801" || major < 6 || major == 6 && minor < 11 {
		require.NoError(t, err)
		require.NoError(t, sandbox.Destroy(t.Context()))
	} else {
		require.ErrorContains(t, err, "cannot give a sandbox a network on this kernel")
		var failure *fault.Error
		require.ErrorAs(t, err, &failure)
		require.Contains(t, failure.Remedy, "install a gVisor of August 2024 or later")
	}
	require.Empty(t, bench.leftovers(t, spec.ID))
}

// newNamespace returns the path of a network namespace that lives as long as the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	ownthread.Go(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- made{err: err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		result <- made{file, err}
	})
	namespace := <-result
	require.NoError(t, namespace.err)
	t.Cleanup(func() { require.NoError(t, namespace.file.Close()) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace.file.Fd())
}
