package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
	"github.com/airlock-ci/airlock/testing/runtimetest"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// launchVar makes the test binary the launcher of a sandbox; its value is the root to launch.
const launchVar = "AIRLOCK_TEST_LAUNCH"

func TestMain(m *testing.M) {
	if root := os.Getenv(launchVar); root != "" {
		fmt.Fprintln(os.Stderr, "launching the agent:", launch(root))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "airlock-agent-test")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "airlock-agent")
	if err := runtimetest.Build(binary, "github.com/airlock-ci/airlock/cmd/airlock-agent"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// binary is the real agent, as it is shipped.
var binary string

// launch runs in the new namespaces: it mounts what a runtime mounts, drops what a runtime drops, and becomes the
// agent. It returns only on failure.
func launch(root string) error {
	runtime.LockOSThread()
	helper := root + isolation.HelperPath
	type mount struct {
		source, target, fs string
		flags              uintptr
		data               string
	}
	mounts := []mount{
		{"", "/", "", unix.MS_PRIVATE | unix.MS_REC, ""},
		{"tmpfs", root + "/.airlock", "tmpfs", 0, "mode=0755"},
		{"proc", root + "/proc", "proc", 0, ""},
		{"tmpfs", root + "/dev", "tmpfs", 0, "mode=0755"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "urandom": 9} {
		if err := unix.Mknod(root+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return err
		}
		os.Chmod(root+"/dev/"+name, 0o666)
	}
	unix.Mknod(root+"/dev/tty", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0)))
	os.Chmod(root+"/dev/tty", 0o666)
	os.Mkdir(root+"/dev/pts", 0o755)
	os.Symlink("pts/ptmx", root+"/dev/ptmx")
	if err := unix.Mount("devpts", root+"/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return err
	}
	if err := os.Mkdir(helper, 0o755); err != nil {
		return err
	}
	mounts = []mount{
		{root + "-helper", helper, "", unix.MS_BIND, ""},
		{"", helper, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""},
		{"tmpfs", helper + "/.airlock", "tmpfs", 0, "mode=0755"},
		{root + "/builds", helper + "/builds", "", unix.MS_BIND, ""},
		{root + "/dev", helper + "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// Docker's default capabilities without NET_RAW, and no_new_privs.
	keep := map[uintptr]bool{
		unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FSETID: true, unix.CAP_FOWNER: true, unix.CAP_MKNOD: true,
		unix.CAP_SETGID: true, unix.CAP_SETUID: true, unix.CAP_SETFCAP: true, unix.CAP_SETPCAP: true,
		unix.CAP_NET_BIND_SERVICE: true, unix.CAP_SYS_CHROOT: true, unix.CAP_KILL: true, unix.CAP_AUDIT_WRITE: true,
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if !keep[c] {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return err
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return syscall.Exec("/agent", []string{"airlock-agent"}, []string{"SECRET_OF_THE_AGENT=1"})
}

// sandbox is a real agent in a root of busybox, in namespaces of its own.
type sandbox struct {
	*agent.Client
	t    testing.TB
	root string
	pid  int // the agent's, on the host
	cmd  *exec.Cmd
	// killed says that the test killed the agent.
	killed bool
	err    error // of Connect
}

type sandboxOptions struct {
	setup    agent.Setup
	noPID1   bool // no pid namespace: the agent is a child subreaper among the host's processes
	noHelper bool
	refused  bool              // Connect is to fail; the error is in the sandbox
	change   func(root string) // last changes to the image
}

func newRoot(t testing.TB, dir string) {
	for _, name := range []string{".airlock", "bin", "builds", "cache", "dev", "etc", "home/app", "proc", "tmp", "usr/bin"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err, "the tests need busybox-static")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	require.NoError(t, err)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			require.NoError(t, os.Symlink("/bin/busybox", filepath.Join(dir, "bin", applet))) // absolute, as in real images
		}
	}
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nnohome:x:1002:1002:::\n")
	write("etc/group", "root:x:0:\nstaff:x:50:app\ndocker:x:999:other,app\napp:x:1001:\n")
}

func startSandbox(t testing.TB, o sandboxOptions) *sandbox {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	root := filepath.Join(t.TempDir(), "image")
	newRoot(t, root)
	newRoot(t, root+"-helper")
	require.NoError(t, os.WriteFile(root+"-helper/etc/helper-root", nil, 0o644))
	program, err := os.ReadFile(binary)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(root+"/agent", program, 0o755))
	if o.change != nil {
		o.change(root)
	}

	ours, theirs := socketpair(t)
	var stderr syncbuf.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{launchVar + "=" + root}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if o.noPID1 {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	}
	require.NoError(t, cmd.Start())
	theirs.Close()
	s := &sandbox{t: t, root: root, pid: cmd.Process.Pid, cmd: cmd}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		if s.Client != nil {
			s.Close()
		}
		select {
		case err := <-exited:
			if !s.killed {
				require.NoError(t, err, "the agent's exit; it said: %s", stderr.String())
			}
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-exited
			t.Errorf("the agent did not exit when its connection ended; it said: %s", stderr.String())
		}
		goleak.VerifyNone(t, leaks)
	})

	if o.setup.Helper == nil && !o.noHelper {
		o.setup.Helper = &isolation.ImageConfig{}
	}
	s.Client, err = agent.Connect(t.Context(), ours, o.setup)
	if o.refused {
		require.Error(t, err)
		s.err = err
		return s
	}
	require.NoError(t, err, "the agent said: %s", stderr.String())
	return s
}

func socketpair(t testing.TB) (ours, theirs *os.File) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(fds[0], true))
	return os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "executor")
}

type result struct {
	isolation.Exit
	stdout, stderr string
}

// run runs a process to its end.
func (s *sandbox) run(spec isolation.ProcessSpec) result {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	spec.Stdout, spec.Stderr = &stdout, &stderr
	p, err := s.Start(s.t.Context(), spec)
	require.NoError(s.t, err)
	exit := s.wait(p)
	return result{exit, stdout.String(), stderr.String()}
}

// sh runs a script and wants it to succeed.
func (s *sandbox) sh(script string) string {
	s.t.Helper()
	got := s.run(isolation.ProcessSpec{Script: []byte(script)})
	require.Zero(s.t, got.Code, "script %q: %s", script, got.stderr)
	return strings.TrimSpace(got.stdout)
}

// begin starts a script in the background.
func (s *sandbox) begin(spec isolation.ProcessSpec) isolation.Process {
	s.t.Helper()
	p, err := s.Start(s.t.Context(), spec)
	require.NoError(s.t, err)
	return p
}

func (s *sandbox) wait(p isolation.Process) isolation.Exit {
	s.t.Helper()
	exit, err := waitWithin(s.t, p, 2*time.Minute)
	require.NoError(s.t, err)
	return exit
}

func waitWithin(t testing.TB, p isolation.Process, limit time.Duration) (isolation.Exit, error) {
	t.Helper()
	type outcome struct {
		exit isolation.Exit
		err  error
	}
	ch := make(chan outcome, 1)
	go func() {
		exit, err := p.Wait()
		ch <- outcome{exit, err}
	}()
	select {
	case o := <-ch:
		return o.exit, o.err
	case <-time.After(limit):
		require.FailNow(t, "the process did not end", "within %s", limit)
		return isolation.Exit{}, nil
	}
}

// others returns the processes in the agent's pid namespace beside the agent, zombies included: "pid state name".
func (s *sandbox) others() []string {
	s.t.Helper()
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.pid))
	require.NoError(s.t, err)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(s.t, err)
	var found []string
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil || pid == s.pid {
			continue
		}
		own, err := os.Readlink(dir + "/ns/pid")
		// A zombie has no namespace any more; then its parent tells.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if own == namespace || err != nil && fields[1] == strconv.Itoa(s.pid) {
			found = append(found, string(stat[:bytes.LastIndexByte(stat, ')')+1])+" "+fields[0])
		}
	}
	return found
}

func (s *sandbox) eventually(what string, condition func() bool) {
	s.t.Helper()
	require.Eventually(s.t, condition, 10*time.Second, 5*time.Millisecond, what)
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, fmt.Errorf("the test waited 10 s"))
	t.Cleanup(cancel)
	return ctx
}
