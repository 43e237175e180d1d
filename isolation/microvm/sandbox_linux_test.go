package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/testing/runtimetest"
)

// warm makes a runtime with a template for the bench's sandboxes.
func (b *bench) warm(t *testing.T) *Runtime {
	t.Helper()
	r := b.newRuntime(t)
	require.NoError(t, r.Warm(t.Context(), b.spec(t).Limits, false))
	return r
}

// ending starts a command that lasts, lets something end the machine, and returns what Wait says and how long it
// took.
func ending(t *testing.T, s *sandbox, line string, end func()) (time.Duration, error) {
	t.Helper()
	p, err := s.Start(t.Context(), isolation.ProcessSpec{Script: []byte(line)})
	require.NoError(t, err)
	began := time.Now()
	end()
	done := make(chan error, 1)
	go func() {
		_, err := p.Wait()
		done <- err
	}()
	select {
	case err = <-done:
	case <-time.After(40 * time.Second):
		require.Fail(t, "the end of the machine goes unnoticed")
	}
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	select {
	case <-s.Done():
	case <-time.After(5 * time.Second):
		require.Fail(t, "the sandbox is not done")
	}
	return time.Since(began), err
}

func TestEndsOfMachines(t *testing.T) {
	bench := newBench(t)
	r := bench.warm(t)
	t.Run("QEMU killed", func(t *testing.T) {
		s := bench.box(t, r, bench.spec(t))
		took, err := ending(t, s, "sleep 1000", func() { require.NoError(t, s.vm.command.Process.Kill()) })
		require.ErrorContains(t, err, "signal 9")
		require.Equal(t, fault.System, fault.ClassOf(err))
		require.Less(t, took, 10*time.Second)
	})
	t.Run("guest that never answers", func(t *testing.T) {
		s := bench.box(t, r, bench.spec(t))
		took, err := ending(t, s, "sleep 1000", func() { require.NoError(t, s.vm.command.Process.Signal(unix.SIGSTOP)) })
		require.ErrorContains(t, err, "did not answer")
		require.Equal(t, fault.System, fault.ClassOf(err))
		require.Less(t, took, 30*time.Second)
	})
	t.Run("guest that ends itself", func(t *testing.T) {
		s := bench.box(t, r, bench.spec(t))
		// What a panic does in the end; nothing in the guest may do it.
		took, err := ending(t, s, "sleep 1000", func() {
			_, err := s.vm.monitor.run(command{Execute: "system_reset"})
			require.NoError(t, err)
		})
		require.Equal(t, fault.System, fault.ClassOf(err))
		require.Less(t, took, 10*time.Second)
	})
	t.Run("guest without memory goes on", func(t *testing.T) {
		spec := bench.spec(t)
		spec.Limits.Memory = minMemory
		s := bench.box(t, r, spec)
		p, err := s.Start(t.Context(), isolation.ProcessSpec{Script: []byte("for d in /dev /dev/shm /.airlock; do cat /dev/zero > $d/x; done; tail /dev/zero")})
		require.NoError(t, err)
		exit, err := p.Wait()
		require.NoError(t, err)
		require.True(t, exit.OOM, "%+v", exit)
		require.Equal(t, "alive\n", shell(t, s, "rm /dev/x; echo alive"), "what lies in memory for good leaves enough to go on")
	})
	t.Run("host without disk space", func(t *testing.T) {
		spec := bench.spec(t)
		spec.ScratchDisk = onSmallDisk(t, spec.ScratchDisk)
		s := bench.box(t, r, spec)
		took, err := ending(t, s, "head -c 100000000 /dev/urandom > /builds/x; sync; sleep 1000", func() {})
		require.ErrorContains(t, err, "host's disk is full")
		require.Equal(t, fault.System, fault.ClassOf(err))
		require.Less(t, took, 35*time.Second, "from the start of the command")
	})
	t.Run("executor gone", func(t *testing.T) {
		spec := bench.spec(t)
		s := bench.box(t, r, spec)
		require.NoError(t, s.agent.Close()) // what the kernel does to the connection of a dead executor
		require.Eventually(t, func() bool { return len(bench.members(t, spec.ID)) == 0 }, 10*time.Second, time.Millisecond)
	})
}

func TestWhyGuestsPanic(t *testing.T) {
	for console, want := range map[string]struct {
		message string
		class   fault.Class
	}{
		"": {},
		"[    1.0] Kernel panic - not syncing: VFS: Unable to mount\r\n[    1.0] CPU": {"kernel panicked: VFS: Unable to mount", fault.System},
		"[    9.9] Kernel panic - not syncing: System is deadlocked on memory":        {"ran out of memory", fault.Author},
		"<0>airlock-agent: no disk\x1b[2J\n[ 1.0] Kernel panic - not syncing: Attempted to kill init!": {
			"agent failed: no disk [2J", fault.System,
		},
	} {
		err := panicReason(console)
		if want.message == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want.message)
		require.Equal(t, want.class, fault.ClassOf(err))
	}
}

// onSmallDisk moves a sparse file to a file system that has no room for what it may grow to.
func onSmallDisk(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, unix.Mount("small", dir, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	target := filepath.Join(dir, "scratch")
	out, err := exec.Command("cp", "--sparse=always", path, target).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return target
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

// TestPosture looks at living QEMUs from the host: one that was booted, one that was cloned, and one that waited. What
// our parent left open, and what somebody opens meanwhile, reaches none of them.
func TestPosture(t *testing.T) {
	bench := newBench(t)
	stray := func() {
		fd, err := unix.Open("/dev/zero", unix.O_RDONLY, 0) // without close-on-exec, as an inherited one
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
	}
	stray()
	r := bench.newRuntime(t, func(o *Options) { o.Pool = 1 })
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, false))
	stray()
	for _, kind := range []struct{ cloned, waited bool }{{true, true}, {true, false}, {false, false}} {
		spec := bench.spec(t)
		spec.Limits.Scratch = 96<<20 + 100 // not a multiple of a sector
		require.NoError(t, makeScratch(spec.ScratchDisk, 96<<20))
		require.NoError(t, os.Truncate(spec.ScratchDisk, 1<<30)) // larger than its file system, and than it may be
		switch {
		case !kind.cloned:
			spec.Limits.Memory += 32 << 20 // no template has this shape
		case !kind.waited:
			require.NoError(t, r.Warm(t.Context(), spec.Limits, false))
			r.pool.take(shapeOf(spec.Limits, spec.Network)).kill()
		}
		s := bench.box(t, r, spec)
		require.Equal(t, kind.cloned, s.cloned)
		require.Equal(t, kind.waited, s.waited)
		require.Equal(t, []int{s.vm.command.Process.Pid}, bench.members(t, spec.ID))
		checkPosture(t, s, spec)
		require.NoError(t, s.Destroy(t.Context()))
	}
}

func checkPosture(t *testing.T, s *sandbox, spec isolation.Spec) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", s.vm.command.Process.Pid)

	content, err := os.ReadFile(dir + "/status")
	require.NoError(t, err)
	status := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	user, _, _ := strings.Cut(status["Uid"], " ")
	if !s.waited { // or the machine had its user before it was this sandbox's
		require.Equal(t, fmt.Sprint(userOf(spec.ID)), user)
	}
	require.Regexp(t, "^20[0-9]{8}$", user)
	for name, want := range map[string]string{
		"Uid": strings.Repeat(user+" ", 3) + user, "Gid": strings.Repeat(user+" ", 3) + user, "Groups": "",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	} {
		require.Equal(t, want, status[name], name)
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		content, err := os.ReadFile(dir + "/" + file)
		require.NoError(t, err)
		require.Equal(t, []string{user, user, "1"}, strings.Fields(string(content)), file)
	}
	limits, err := os.ReadFile(dir + "/limits")
	require.NoError(t, err)
	for name, want := range map[string]int64{"Max file size": 96 << 20, "Max core file size": 0, "Max open files": openFiles} {
		require.Regexp(t, fmt.Sprintf(`(?m)^%s +%d +%d `, name, want, want), string(limits))
	}
	disk, err := os.Stat(spec.ScratchDisk)
	require.NoError(t, err)
	require.EqualValues(t, 96<<20, disk.Size(), "behind its end nothing can be mapped or allocated, whatever the limit on writes says")
	for _, namespace := range []string{"user", "mnt", "net", "ipc", "pid", "uts", "cgroup"} {
		ours, err := os.Readlink("/proc/self/ns/" + namespace)
		require.NoError(t, err)
		theirs, err := os.Readlink(dir + "/ns/" + namespace)
		require.NoError(t, err)
		require.NotEqual(t, ours, theirs, namespace)
	}
	names, err := os.ReadDir(dir + "/root")
	require.NoError(t, err)
	for _, entry := range names {
		require.Contains(t, []string{"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "usr"}, entry.Name())
	}
	mounts, err := os.ReadFile(dir + "/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if fields[1] != "/proc" {
			require.True(t, strings.HasPrefix(fields[3], "ro,"), line)
		}
	}
	descriptors, err := filepath.Glob(dir + "/fd/*")
	require.NoError(t, err)
	for _, d := range descriptors {
		target, err := os.Readlink(d)
		require.NoError(t, err)
		kind := strings.TrimRight(strings.Split(target, "[")[0], "0123456789")
		require.True(t, slices.Contains([]string{"/dev/null", "pipe:", "socket:", "anon_inode:"}, kind) ||
			strings.HasPrefix(target, "/memfd:") || target == shared.image || target == shared.helper || target == spec.ScratchDisk, target)
	}
}

// TestDestroyOfWhatIsHalfMade: by id alone, whatever there is.
func TestDestroyOfWhatIsHalfMade(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t)
	const id = "al-half-made"
	for name, make := range map[string]func(){
		"a mark":   func() { require.NoError(t, os.Mkdir(filepath.Join(r.machines, id), 0o700)) },
		"a cgroup": func() { require.NoError(t, r.cgroups.Make(id, isolation.Limits{})) },
		"a cgroup with a process": func() {
			require.NoError(t, r.cgroups.Make(id, isolation.Limits{}))
			sleeper := exec.Command("sleep", "1000")
			require.NoError(t, sleeper.Start())
			go func() { _ = sleeper.Wait() }()
			require.NoError(t, r.cgroups.Add(id, sleeper.Process.Pid))
		},
		"nothing": func() {},
	} {
		make()
		ids, err := r.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, name != "nothing", slices.Equal(ids, []string{id}), name)
		require.NoError(t, r.Destroy(t.Context(), id), name)
		require.Empty(t, bench.leftovers(t, id), name)
	}
}

func TestNewNamesTheRemedy(t *testing.T) {
	good := Options{AgentPath: shared.agent, StateDir: t.TempDir(), RunDir: t.TempDir(), CgroupParent: testParent}
	_, err := New(good)
	require.NoError(t, err)
	for want, spoil := range map[string]func(*Options){
		"install the package qemu-system-x86": func(o *Options) { o.QEMU = "no-such-qemu" },
		"install airlock-agent":               func(o *Options) { o.AgentPath = "/no/such/agent" },
		"not an absolute path":                func(o *Options) { o.RunDir = "run" },
		"set cgroup_parent":                   func(o *Options) { o.CgroupParent = "/" },
		"unknown accelerator":                 func(o *Options) { o.Accelerator = "xen" },
	} {
		options := good
		spoil(&options)
		_, err := New(options)
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
}

// TestAccelerators: where KVM does not work, machines are emulated only with permission. It is tried once.
func TestAccelerators(t *testing.T) {
	bench := newBench(t)
	state := filepath.Join(bench.dir, "state")
	cautious := bench.newRuntime(t, func(o *Options) { o.Accelerator, o.StateDir = Auto, state })
	began := time.Now()
	found, err := cautious.Probe(t.Context())
	t.Logf("probed in %s: %s, %v", time.Since(began), found, err)
	if err == nil { // a host with KVM
		require.Equal(t, KVM, found)
		return
	}
	require.ErrorIs(t, err, isolation.ErrUnsupported)
	require.ErrorContains(t, err, "allow_emulation")
	require.Equal(t, fault.System, fault.ClassOf(err))
	_, err = cautious.Create(t.Context(), bench.spec(t))
	require.ErrorIs(t, err, isolation.ErrUnsupported)

	bold := bench.newRuntime(t, func(o *Options) { o.Accelerator, o.StateDir, o.AllowEmulation = Auto, state, true })
	began = time.Now()
	found, err = bold.Probe(t.Context())
	require.NoError(t, err)
	require.Equal(t, TCG, found)
	require.Equal(t, "qemu-tcg", bold.Name())
	require.Less(t, time.Since(began), 5*time.Second, "it is remembered")
}

// TestMuchOutput: every byte of much output arrives, and many commands leave nothing behind in the guest.
func TestMuchOutput(t *testing.T) {
	size, commands := 100<<20, 300
	if testing.Short() {
		size, commands = 20<<20, 20
	}
	bench := newBench(t)
	s := bench.box(t, bench.warm(t), bench.spec(t))
	sum := strings.Fields(shell(t, s, fmt.Sprintf("yes 0123456789abcdef | head -c %d > /builds/much; sha256sum /builds/much", size)))[0]
	var stdout bytes.Buffer
	began := time.Now()
	p, err := s.Start(t.Context(), isolation.ProcessSpec{Args: []string{"cat", "/builds/much"}, Stdout: &stdout})
	require.NoError(t, err)
	exit, err := p.Wait()
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	t.Logf("%d MiB in %s", size>>20, time.Since(began))
	require.Equal(t, size, stdout.Len())
	path := filepath.Join(bench.dir, "much")
	require.NoError(t, os.WriteFile(path, stdout.Bytes(), 0o600))
	require.Equal(t, sum, fileSum(t, path))

	shell(t, s, "true")
	usage, err := s.Stats(t.Context())
	require.NoError(t, err)
	began = time.Now()
	for n := range commands {
		require.Equal(t, fmt.Sprintln(n), shell(t, s, fmt.Sprintf("echo %d", n)))
	}
	t.Logf("%d commands in %s", commands, time.Since(began))
	after, err := s.Stats(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, after.PIDs, usage.PIDs+2)
}

func TestCancelledCreate(t *testing.T) {
	bench := newBench(t)
	r := bench.warm(t)
	began := time.Now()
	made, err := r.Create(t.Context(), bench.spec(t))
	whole := time.Since(began)
	require.NoError(t, err)
	require.NoError(t, made.Destroy(t.Context()))
	why, cancelled := errors.New("the caller gave up"), 0
	for percent := time.Duration(0); percent < 100; percent += 10 {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(whole*percent/100, func() { cancel(why) })
		spec := bench.spec(t)
		made, err := r.Create(ctx, spec)
		if err == nil { // quicker than the first
			require.NoError(t, made.Destroy(t.Context()))
		} else {
			require.ErrorIs(t, err, why, "after %d %%", percent)
			cancelled++
		}
		require.Empty(t, bench.leftovers(t, spec.ID))
	}
	require.GreaterOrEqual(t, cancelled, 5, "of ten")
}

// TestGuestThatPanics boots guests whose kernel finds no first program that it could run, or loses it. Before the agent
// has loaded the console's driver a panic looks like any other reset.
func TestGuestThatPanics(t *testing.T) {
	bench := newBench(t)
	nonsense, fallen := filepath.Join(bench.dir, "nonsense"), filepath.Join(bench.dir, "fallen")
	require.NoError(t, os.WriteFile(nonsense, []byte("no program"), 0o755))
	require.NoError(t, runtimetest.Build(fallen, "github.com/airlock-ci/airlock/isolation/microvm/testdata/fallen"))
	for path, want := range map[string]string{
		nonsense: "the guest ended its machine (guest-reset)", fallen: "the guest's kernel panicked: Attempted to kill init!",
	} {
		r := bench.newRuntime(t, func(o *Options) {
			o.AgentPath, o.StateDir, o.NoTemplates = path, filepath.Join(bench.dir, "state"), true
		})
		spec := bench.spec(t)
		_, err := r.Create(t.Context(), spec)
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.System, fault.ClassOf(err))
		require.Empty(t, bench.leftovers(t, spec.ID))
	}
}

// TestUserNamespacesThatAreOff: a machine without a namespace of its own is none, and the error says what to do.
func TestUserNamespacesThatAreOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "max_user_namespaces")
	require.ErrorIs(t, checkUserNamespaces(path), isolation.ErrUnsupported)
	require.ErrorContains(t, checkUserNamespaces(path), "CONFIG_USER_NS")
	require.NoError(t, os.WriteFile(path, []byte("0\n"), 0o600))
	require.ErrorIs(t, checkUserNamespaces(path), isolation.ErrUnsupported)
	require.ErrorContains(t, checkUserNamespaces(path), "sysctl -w user.max_user_namespaces")
	require.NoError(t, os.WriteFile(path, []byte("96364\n"), 0o600))
	require.NoError(t, checkUserNamespaces(path))
	require.ErrorContains(t, explainStart(unix.ENOSPC), "sysctl -w user.max_user_namespaces")
}

// TestGuestsProcessor: what no job needs of the processor and what has been a way out of machines is not there.
func TestGuestsProcessor(t *testing.T) {
	bench := newBench(t)
	s := bench.box(t, bench.warm(t), bench.spec(t))
	flags := strings.Fields(shell(t, s, "grep -m1 ^flags /proc/cpuinfo"))
	require.Contains(t, flags, "sse2")
	for _, flag := range []string{"vmx", "svm", "arch_perfmon"} {
		require.NotContains(t, flags, flag)
	}
}

// TestTakenOverQEMU: a program that runs as QEMU, with its descriptors, gets no further on the host's disk than the
// scratch's size, by writing, allocating or growing.
func TestTakenOverQEMU(t *testing.T) {
	const size = 96 << 20
	bench := newBench(t)
	spec := bench.spec(t)
	spec.Limits.Scratch = size
	require.NoError(t, makeScratch(spec.ScratchDisk, size))
	require.NoError(t, os.Truncate(spec.ScratchDisk, 1<<30))
	disk, size64, err := openDisk(agent.GuestScratch, spec)
	require.NoError(t, err)
	defer func() { require.NoError(t, disk.Close()) }()
	for name, command := range map[string]string{
		"write":    "dd if=/dev/zero of=/proc/self/fd/3 bs=4096 count=1 seek=$((96 << 8)) conv=notrunc",
		"allocate": "fallocate -o $((96 << 20)) -l 4096 /proc/self/fd/3",
		"grow":     "truncate -s 97M /proc/self/fd/3",
		"inside":   "dd if=/dev/zero of=/proc/self/fd/3 bs=4096 count=1 seek=$(((96 << 8) - 1)) conv=notrunc",
	} {
		intruder := exec.Command("sh", "-c", "sleep 0.5; exec "+command)
		intruder.ExtraFiles = []*os.File{disk}
		require.NoError(t, intruder.Start())
		v := &vm{command: intruder, exited: make(chan struct{})}
		require.NoError(t, v.limit(size64))
		err := intruder.Wait()
		require.Equal(t, name == "inside", err == nil, "%s: %v", name, err)
	}
	info, err := disk.Stat()
	require.NoError(t, err)
	require.EqualValues(t, size, info.Size())
}
