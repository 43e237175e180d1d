package microvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/probes"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// TestEscapeProbes runs every probe of the process level as root in a guest, in both roots: none may get out, not even
// out of the sandbox into its own kernel. That the probes work without confinement is tested at the process level.
func TestEscapeProbes(t *testing.T) {
	program := filepath.Join(t.TempDir(), "probes")
	require.NoError(t, runtimetest.Build(program, "github.com/airlock-ci/airlock/testing/probes/cmd/probes"))
	path, abstract, address := runtimetest.HostTargets(t)
	arguments := []string{"-socket", path, "-abstract", abstract, "-address", address}
	bench := newBench(t)
	s := bench.box(t, bench.warm(t), bench.spec(t))
	file, err := os.Open(program)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	upload, err := s.Start(t.Context(), isolation.ProcessSpec{Args: []string{"sh", "-c", "cat > /builds/probes && chmod 755 /builds/probes"}, Stdin: file})
	require.NoError(t, err)
	exit, err := upload.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)

	for _, helper := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		p, err := s.Start(t.Context(), isolation.ProcessSpec{
			Helper: helper, Args: append([]string{"/builds/probes"}, arguments...), Stdout: &stdout, Stderr: &stderr,
		})
		require.NoError(t, err)
		exit, err := p.Wait()
		require.NoError(t, err)
		require.Zero(t, exit.Code, stderr.String())
		results, err := probes.Parse(&stdout)
		require.NoError(t, err)
		require.Len(t, results, probes.Count())
		for _, r := range results {
			if helper && r.Name == "chroot out" {
				continue // the helper root is a chroot in the guest, and ends there
			}
			if !r.Blocked {
				t.Errorf("helper root %t: %s got out: %s", helper, r.Name, r.Detail)
			}
		}
	}
}

// TestGuestSeesNothingOfTheHost: neither its files, nor its processes, nor another guest.
func TestGuestSeesNothingOfTheHost(t *testing.T) {
	bench := newBench(t)
	r := bench.warm(t)
	first, second := bench.box(t, r, bench.spec(t)), bench.box(t, r, bench.spec(t))
	shell(t, second, "echo mine > /tmp/mine")
	marker := filepath.Join(bench.dir, "run")
	out := shell(t, first, "cat /proc/mounts; ps -o args; ls / /tmp /dev; cat /proc/partitions /proc/cmdline")
	require.NotContains(t, out, bench.dir)
	require.NotContains(t, out, "qemu")
	require.NotContains(t, out, "mine")
	require.NotContains(t, out, "9p")
	require.NotContains(t, out, "virtiofs")
	require.Equal(t, "gone\n", shell(t, first, "test -e "+marker+" || echo gone"))
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	require.NotEqual(t, string(host), shell(t, first, "uname -r"))
	requireProcessor(t, r, first)
}
