package oci

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/testing/conformance"
)

// box makes a sandbox for the rest of the test.
func (b *bench) box(t *testing.T, spec isolation.Spec) isolation.Sandbox {
	t.Helper()
	sandbox, err := b.newRuntime(t).Create(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, sandbox.Destroy(context.Background()))
		require.Empty(t, b.leftovers(t, spec.ID))
	})
	return sandbox
}

// shell runs a line in a sandbox; it must end with status 0.
func shell(t *testing.T, sandbox isolation.Sandbox, line string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{Script: []byte(line), Stdout: &stdout, Stderr: &stderr})
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code, "%s\n%s%s", line, stdout.String(), stderr.String())
	return stdout.String()
}

// members are the ids of the sandbox's processes on the host.
func (b *bench) members(t *testing.T, id string) []int {
	t.Helper()
	groups, err := cgroup.New(b.parent)
	require.NoError(t, err)
	dirs, err := groups.Dirs(id)
	require.NoError(t, err)
	pids, err := cgroup.Processes(dirs)
	require.NoError(t, err)
	return pids
}

func TestImageCannotRedirectMounts(t *testing.T) {
	bench := newBench(t, "crun")
	outside := t.TempDir() // where the links of the image lead
	hostile := t.TempDir()
	for _, name := range []string{".airlock", "builds", "cache", "proc", "sys", "tmp"} {
		require.NoError(t, os.Symlink(outside, filepath.Join(hostile, name)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(hostile, "dev"), nil, 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(hostile, "etc"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(outside, "hosts"), filepath.Join(hostile, "etc/hosts")))
	require.NoError(t, os.Symlink("../../../../../../"+outside+"/resolv.conf", filepath.Join(hostile, "etc/resolv.conf")))
	require.NoError(t, os.Mkdir(filepath.Join(hostile, "etc/hostname"), 0o755))

	before := conformance.Fingerprint(t, hostile)
	spec := bench.spec(t)
	spec.Image.Layers = []string{hostile, shared.image}
	spec.Helper.Layers = []string{hostile, shared.helper}
	sandbox := bench.box(t, spec)
	require.Equal(t, "sandbox\nup\n", shell(t, sandbox, "cat /etc/hostname; grep -q localhost /etc/hosts && test -d /proc/self && test -c /dev/null && echo up"))
	for _, path := range []string{"/.airlock", "/builds", "/cache", "/proc", "/sys", "/tmp", "/dev"} {
		require.Equal(t, "directory\n", shell(t, sandbox, "test ! -L "+path+" && stat -c %F "+path), path)
	}
	require.Contains(t, shell(t, sandbox, "grep ' /.airlock ' /proc/mounts"), "tmpfs")
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.Equal(t, before, conformance.Fingerprint(t, hostile))
}

// A link that the image has for /run is its own; it leads to where it leads in the image.
func TestRunThatIsALink(t *testing.T) {
	bench := newBench(t, "crun")
	hostile := t.TempDir()
	require.NoError(t, os.Symlink("/var/elsewhere", filepath.Join(hostile, "run")))
	require.NoError(t, os.MkdirAll(filepath.Join(hostile, "var/elsewhere/mysqld"), 0o755))
	spec := bench.spec(t)
	spec.Image.Layers = []string{hostile}
	for _, name := range []string{"bin", "etc"} { // all of the root but its /run and /var
		require.NoError(t, os.CopyFS(filepath.Join(hostile, name), os.DirFS(filepath.Join(shared.image, name))))
	}
	require.NoError(t, os.Chmod(filepath.Join(hostile, "bin/busybox"), 0o755))
	require.Equal(t, "/var/elsewhere\nmysqld\n", shell(t, bench.box(t, spec), "busybox readlink /run; busybox ls /run"))

	require.NoError(t, os.Remove(filepath.Join(hostile, "run")))
	spec = bench.spec(t)
	spec.Image.Layers = []string{hostile}
	require.Equal(t, "755 0:0\n", shell(t, bench.box(t, spec), "busybox stat -c '%a %u:%g' /run"), "an image without one")
}

// TestFileCapability: the kernel executes Debian's ping, which has one, only if the sandbox may have it.
func TestFileCapability(t *testing.T) {
	bench := newBench(t, "crun")
	layer := t.TempDir()
	spec := bench.spec(t)
	spec.Image.Layers = append([]string{layer}, spec.Image.Layers...)
	ping := filepath.Join(layer, "opt/ping")
	copyFile(t, "/bin/busybox", ping)
	// struct vfs_cap_data of linux/capability.h: version 2, effective, with NET_RAW.
	attribute := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	attribute = binary.LittleEndian.AppendUint32(attribute, 1<<unix.CAP_NET_RAW)
	require.NoError(t, unix.Setxattr(ping, "security.capability", append(attribute, make([]byte, 12)...), 0))
	sandbox := bench.box(t, spec)
	for _, user := range []string{"", "builder", "4321"} {
		var stdout, stderr bytes.Buffer
		p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{
			User: user, Args: []string{"/opt/ping", "-c", "1", "-W", "5", "127.0.0.1"}, Stdout: &stdout, Stderr: &stderr,
		})
		require.NoError(t, err, "as %q", user)
		_, err = p.Wait()
		require.NoError(t, err)
		require.Contains(t, stdout.String(), "1 packets received", "as %q: %s", user, stderr.String())
	}
}

// TestCacheOfJobsWithDifferentUsers: the runner's own stages find and replace what those of other jobs left in the cache
// directory of their project, one after the other and at the same time, with a helper root and without.
func TestCacheOfJobsWithDifferentUsers(t *testing.T) {
	bench := newBench(t, "crun")
	cache := t.TempDir()
	require.NoError(t, os.Chown(cache, 1234, 1234)) // as an earlier version left it
	boxOf := func(user string, helper bool) isolation.Sandbox {
		spec := bench.spec(t)
		spec.CacheDir, spec.Image.Config.User = cache, user
		if !helper {
			spec.Helper = nil
		}
		return bench.box(t, spec)
	}
	archive := func(sandbox isolation.Sandbox) string {
		var stdout, stderr bytes.Buffer
		p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{Helper: true, Script: []byte(conformance.Archive), Stdout: &stdout, Stderr: &stderr})
		require.NoError(t, err)
		exit, err := p.Wait()
		require.NoError(t, err)
		require.Zero(t, exit.Code, stderr.String())
		return stdout.String()
	}
	last := ""
	var boxes []isolation.Sandbox
	for n, user := range []string{"", "builder", "4321", "root", "4321:4321", "1000"} {
		sandbox := boxOf(user, n%3 != 2)
		require.Equal(t, last, archive(sandbox), "what the job before left, as %q", user)
		last = shell(t, sandbox, "id -u")
		boxes = append(boxes, sandbox)
	}
	for _, sandbox := range boxes { // who came first must not have lost its rights to who came later
		require.Equal(t, last, archive(sandbox))
		last = shell(t, sandbox, "id -u")
		require.Equal(t, "mine\n", shell(t, sandbox, "echo mine > /cache/$$; cat /cache/$$; rm /cache/$$"), "the author's own code")
	}
}

func TestEtcThatIsALink(t *testing.T) {
	bench := newBench(t, "crun")
	outside, linked, leadsOut := t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink("/usr/etc", filepath.Join(linked, "etc")))
	require.NoError(t, os.MkdirAll(filepath.Join(linked, "usr/etc"), 0o755))
	require.NoError(t, os.Symlink(outside, filepath.Join(leadsOut, "etc")))
	for image, etc := range map[string]string{linked: "/usr/etc", leadsOut: "/etc"} {
		spec := bench.spec(t)
		spec.Image.Layers = []string{image, shared.image}
		sandbox := bench.box(t, spec)
		require.Equal(t, "sandbox\nsandbox\n", shell(t, sandbox, "cat /etc/hostname "+etc+"/hostname; grep -q localhost /etc/hosts"))
	}
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestManyLayers(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	// Long paths with the characters that overlayfs parses.
	parent := filepath.Join(t.TempDir(), strings.Repeat("long", 40)+",:\\")
	spec.Image.Layers = nil
	for i := range 127 {
		layer := filepath.Join(parent, strconv.Itoa(i))
		require.NoError(t, os.MkdirAll(filepath.Join(layer, "layers"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(layer, "layers", strconv.Itoa(i)), nil, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(layer, "top"), []byte(strconv.Itoa(i)), 0o644))
		spec.Image.Layers = append(spec.Image.Layers, layer)
	}
	spec.Image.Layers = append(spec.Image.Layers, shared.image)
	require.Equal(t, "127\n0\n", shell(t, bench.box(t, spec), "ls /layers | wc -l; cat /top; echo"))
}

func TestLimitsAreVisibleInside(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	spec.Limits = isolation.Limits{Memory: 96 << 20, CPUs: 0.5, PIDs: 77}
	sandbox := bench.box(t, spec)
	read := func(version2, version1 string) string {
		return strings.TrimSpace(shell(t, sandbox, fmt.Sprintf("cd /sys/fs/cgroup; cat %s 2>/dev/null || cat %s", version2, version1)))
	}
	require.Equal(t, strconv.Itoa(96<<20), read("memory.max", "memory/memory.limit_in_bytes"))
	require.Equal(t, "77", read("pids.max", "pids/pids.max"))
	require.Contains(t, []string{"50000 100000", "50000"}, read("cpu.max", "cpu/cpu.cfs_quota_us"))
	// Memory and swap together on version 1; swap alone on version 2. Kernels that do not account for swap have neither.
	require.Contains(t, []string{"0", strconv.Itoa(96 << 20), ""}, read("memory.swap.max", "memory/memory.memsw.limit_in_bytes || true"))
}

func TestMemoryLimitThatTheAgentDoesNotFitIn(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	spec.Limits.Memory = 1 << 20
	_, err := bench.newRuntime(t).Create(t.Context(), spec)
	require.ErrorContains(t, err, "raise the memory limit")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	require.Empty(t, bench.leftovers(t, spec.ID))
}

// What a job keeps in a tmpfs belongs to no process, so the kernel's killing does not free it: in the end it is the
// agent that dies.
func TestAgentKilledByTheMemoryLimit(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	spec.Limits.Memory = 96 << 20
	sandbox := bench.box(t, spec)
	var failure error
	for range 200 {
		p, err := sandbox.Start(t.Context(), isolation.ProcessSpec{Args: []string{"sh", "-c", "for d in /dev/shm /dev /.airlock; do cat /dev/zero >> $d/x; done"}})
		if err == nil {
			_, err = p.Wait()
		}
		if errors.Is(err, isolation.ErrSandboxGone) {
			failure = err
			break
		}
	}
	require.ErrorIs(t, failure, isolation.ErrSandboxGone)
	require.ErrorContains(t, failure, "memory limit of 100663296 bytes")
	require.Equal(t, fault.Author, fault.ClassOf(failure))
	<-sandbox.Done()
}

func TestDestroyOfWhatIsHalfMade(t *testing.T) {
	bench := newBench(t, "crun")
	runtime := bench.newRuntime(t)
	const id = "al-half-made"
	for name, make := range map[string]func(t *testing.T){
		"an empty bundle": func(t *testing.T) { require.NoError(t, os.Mkdir(filepath.Join(runtime.bundleDir, id), 0o700)) },
		"a bundle with a scratch that is gone": func(t *testing.T) {
			require.NoError(t, os.Mkdir(filepath.Join(runtime.bundleDir, id), 0o700))
			require.NoError(t, os.Symlink("/no/such/scratch", filepath.Join(runtime.bundleDir, id, scratchLink)))
		},
		"roots that are mounted": func(t *testing.T) {
			spec := bench.spec(t)
			spec.ID = id
			_, err := runtime.claim(spec)
			require.NoError(t, err)
			require.NoError(t, runtime.mountRoots(spec))
		},
		"state that nobody can read": func(t *testing.T) {
			require.NoError(t, os.Mkdir(filepath.Join(runtime.stateDir, id), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(runtime.stateDir, id, "status"), []byte("{"), 0o600))
		},
		"cgroups with cgroups in them": func(t *testing.T) {
			for _, parent := range runtime.cgroups.Parents() {
				require.NoError(t, os.MkdirAll(filepath.Join(parent, id, "inner"), 0o755))
			}
		},
		"nothing": func(*testing.T) {},
	} {
		t.Run(name, func(t *testing.T) {
			make(t)
			ids, err := runtime.List(t.Context())
			require.NoError(t, err)
			require.Equal(t, name != "nothing", len(ids) == 1 && ids[0] == id, ids)
			require.NoError(t, runtime.Destroy(t.Context(), id))
			require.Empty(t, bench.leftovers(t, id))
			ids, err = runtime.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, ids)
		})
	}
}

func TestEndOfTheExecutorEndsTheSandbox(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	made := bench.box(t, spec)
	_, err := made.Start(t.Context(), isolation.ProcessSpec{Args: []string{"sh", "-c", "trap '' TERM; setsid sleep 2001 & sleep 2001"}})
	require.NoError(t, err)
	require.NoError(t, made.(*sandbox).agent.Close()) // what the kernel does to the connection of a dead executor
	require.Eventually(t, func() bool { return len(bench.members(t, spec.ID)) == 0 }, 10*time.Second, time.Millisecond)
	<-made.Done()
}

func TestNetworkNamespaceByPath(t *testing.T) {
	bench := newBench(t, "crun")
	spec := bench.spec(t)
	spec.Network.NetNS = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()) // the host's own will do
	want, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(shell(t, bench.box(t, spec), "readlink /proc/self/ns/net")))
}

func TestNewNamesTheRemedy(t *testing.T) {
	good := Options{AgentPath: shared.agent, RunDir: t.TempDir(), CgroupParent: testParent}
	_, err := New(good)
	require.NoError(t, err)
	for want, spoil := range map[string]func(*Options){
		"install the package crun": func(o *Options) { o.Runtime = "no-such-runtime" },
		"install airlock-agent":    func(o *Options) { o.AgentPath = "/no/such/agent" },
		"not an absolute path":     func(o *Options) { o.RunDir = "run" },
		"set cgroup_parent":        func(o *Options) { o.CgroupParent = "/" },
	} {
		options := good
		spoil(&options)
		_, err := New(options)
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
}
