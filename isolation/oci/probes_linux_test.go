package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/probes"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// TestEscapeProbes runs every probe as root in a job: none may get out. Then it runs the same program in a container
// that is confined by nothing, where most must, or the probes prove nothing.
func TestEscapeProbes(t *testing.T) {
	program := filepath.Join(t.TempDir(), "probes")
	require.NoError(t, runtimetest.Build(program, "github.com/airlock-ci/airlock/testing/probes/cmd/probes"))
	path, abstract, address := runtimetest.HostTargets(t)
	arguments := []string{"-socket", "/host" + path, "-abstract", abstract, "-address", address} // the control container sees the host's root at /host

	require.GreaterOrEqual(t, probes.Count(), 25)
	bench := newBench(t, "crun")
	runtime := bench.newRuntime(t)
	// The first sandbox has the filter that crun compiled for it, the second the one that was kept.
	for _, sandbox := range []string{"first", "second"} {
		for _, helper := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s sandbox, helper root %t", sandbox, helper), func(t *testing.T) {
				spec := bench.spec(t)
				copyFile(t, program, filepath.Join(spec.ScratchDir, "builds", "probes"))
				results := probeSandbox(t, runtime, spec, isolation.ProcessSpec{Helper: helper, Args: append([]string{"/builds/probes"}, arguments...)})
				require.Len(t, results, probes.Count())
				for _, r := range results {
					t.Logf("%-32s %s", r.Name, r.Detail)
					if helper && r.Name == "chroot out" {
						continue // the helper root is a chroot in the container, and ends there
					}
					require.True(t, r.Blocked, "%s got out: %s", r.Name, r.Detail)
				}
			})
		}
	}
	t.Run("control without confinement", func(t *testing.T) {
		results := probeControl(t, program, arguments)
		require.Len(t, results, probes.Count())
		succeeded := 0
		for _, r := range results {
			t.Logf("blocked %-5t %-32s %s", r.Blocked, r.Name, r.Detail)
			if !r.Blocked {
				succeeded++
			}
		}
		require.Greater(t, succeeded, probes.Count()*3/4, "of %d probes only these work even without confinement", probes.Count())
	})
}

func probeSandbox(t *testing.T, runtime isolation.Runtime, spec isolation.Spec, process isolation.ProcessSpec) []probes.Result {
	t.Helper()
	sandbox, err := runtime.Create(t.Context(), spec)
	require.NoError(t, err)
	defer func() { require.NoError(t, sandbox.Destroy(t.Context())) }()
	var stdout, stderr bytes.Buffer
	process.Stdout, process.Stderr = &stdout, &stderr
	p, err := sandbox.Start(t.Context(), process)
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code, stderr.String())
	results, err := probes.Parse(&stdout)
	require.NoError(t, err)
	return results
}

// probeControl runs the probes with every capability, no filter, the host's network, devices, cgroups and root.
func probeControl(t *testing.T, program string, arguments []string) []probes.Result {
	t.Helper()
	bundle := t.TempDir()
	root := filepath.Join(bundle, "rootfs")
	require.NoError(t, rootfs.Busybox(root))
	for _, dir := range []string{"host", isolation.HelperPath + "/bin", isolation.HelperPath + "/proc"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	copyFile(t, program, filepath.Join(root, "probes"))
	copyFile(t, program, filepath.Join(root, isolation.AgentPath))
	copyFile(t, program, filepath.Join(root, isolation.HelperPath, "bin/busybox"))

	document, err := json.Marshal(controlSpec(arguments))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), document, 0o600))
	command := exec.Command("crun", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, fmt.Sprintf("airlock-control-%d", os.Getpid()))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	require.NoError(t, err, stderr.String())
	results, err := probes.Parse(bytes.NewReader(out))
	require.NoError(t, err)
	return results
}

func controlSpec(arguments []string) *specs.Spec {
	var every []string
	for number, name := range capabilityNames {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0); err == nil && has == 1 {
			every = append(every, name)
		}
	}
	return &specs.Spec{
		Version: specVersion,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: append([]string{"/probes"}, arguments...), Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: every, Effective: every, Permitted: every},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate"}},
			{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind", "rprivate"}},
			{Destination: "/host", Type: "bind", Source: "/", Options: []string{"rbind", "rprivate"}},
			{Destination: isolation.HelperPath + "/proc", Type: "proc", Source: "proc"},
		},
		Linux: &specs.Linux{
			RootfsPropagation: "private",
			CgroupsPath:       fmt.Sprintf("/%s/control-%d", testParent, os.Getpid()),
			Resources:         &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
			Namespaces:        []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.IPCNamespace}},
		},
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	require.NoError(t, os.WriteFile(to, content, 0o755))
}

// capabilityNames are the kernel's, by number: capabilities(7).
var capabilityNames = strings.Fields(`
	CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP
	CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
	CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
	CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
	CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
	CAP_CHECKPOINT_RESTORE`)

// ofGVisor are probes that get somewhere in gVisor, and where that is: never the host.
var ofGVisor = map[string]string{
	"sysctl of the network":    "its own network stack's",
	"kernel log":               "its own, which tells nothing",
	"device nodes":             "its own; /dev/fuse is one that it makes itself",
	"helper's device nodes":    "its own, see the deviation of the helper stages",
	"new user namespace":       "its own",
	"new mount namespace":      "its own",
	"environment of process 1": "the agent's, which is empty but for PATH and HOME",
	"descriptors of process 1": "their names: the connection of the agent cannot be opened by one",
	"io_uring":                 "its own",
	"raw socket":               "its own network stack's",
	"packet socket":            "its own network stack's",
	"helper's proc":            "its own: it knows no subset=pid",
}

// TestEscapeProbesOfGVisor runs every probe as root in a job of gVisor. What works there that works nowhere else is named.
func TestEscapeProbesOfGVisor(t *testing.T) {
	program := filepath.Join(t.TempDir(), "probes")
	require.NoError(t, runtimetest.Build(program, "github.com/airlock-ci/airlock/testing/probes/cmd/probes"))
	path, abstract, address := runtimetest.HostTargets(t)
	bench := newBench(t, "runsc")
	spec := bench.spec(t)
	copyFile(t, program, filepath.Join(spec.ScratchDir, "builds", "probes"))
	results := probeSandbox(t, bench.newRuntime(t), spec, isolation.ProcessSpec{
		Args: []string{"/builds/probes", "-socket", "/host" + path, "-abstract", abstract, "-address", address},
	})
	require.Len(t, results, probes.Count())
	for _, r := range results {
		t.Logf("%-32s %s", r.Name, r.Detail)
		_, named := ofGVisor[r.Name]
		require.Equal(t, !named, r.Blocked, "%s: %s", r.Name, r.Detail)
	}

	sandbox := bench.box(t, bench.spec(t))
	require.Equal(t, "shut\n", shell(t, sandbox, "(exec 9<>/proc/1/fd/0) 2>/dev/null && echo open || echo shut"), "the agent's connection")
	require.Equal(t, "HOME=/\n", shell(t, sandbox, "tr '\\0' '\\n' < /proc/1/environ | grep -v ^PATH="))
}
