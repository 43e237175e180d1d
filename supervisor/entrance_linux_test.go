package supervisor

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// classRig is a host with a socket of its own for the class "protected".
func classRig(t *testing.T) (r *rig, socket string) {
	t.Helper()
	r = newRig(t)
	dir, err := os.MkdirTemp("/run", "al-class-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	socket = filepath.Join(dir, "protected", "host.sock")
	r.opts.Group = "nogroup"
	r.opts.Sockets = []Socket{{Path: socket, Group: "games", RunnerClass: "protected"}}
	return r, socket
}

// TestAClassHasASocketOfItsOwn: processes of two groups, of both, of none, and root, on both sockets, with every class that they
// can say.
func TestAClassHasASocketOfItsOwn(t *testing.T) {
	r, protected := classRig(t)
	r.up()
	for path, mode := range map[string]os.FileMode{protected: 0o660, filepath.Dir(protected): 0o750} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	binary := filepath.Join(r.opts.RunDir, "driver")
	text, err := os.ReadFile(r.opts.ExecutorPath)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary, text, 0o755))
	const nogroup, games = 65534, 60
	as := func(uid, gid uint32, groups []uint32, socket, stage string) string {
		cmd := exec.Command(binary, socket, stage)
		cmd.Dir, cmd.Env = "/", []string{testRole + "=driver"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
		out, _ := cmd.CombinedOutput() // which says how it ended
		return string(out)
	}
	const (
		isProtected = `class "protected"`
		reserved    = `runner class "protected" has a socket of its own`
		denied      = "permission denied"
		none        = "bytes of response"
	)
	for _, c := range []struct {
		name          string
		uid, gid      uint32
		groups        []uint32
		socket, class string
		want          string
		unwanted      string
	}{
		{"a member says nothing", 4001, games, nil, protected, "", isProtected, ""},
		{"a member says the class", 4001, games, nil, protected, "protected", isProtected + " of user 4001\n", ""},
		{"a member by a supplementary group", 4001, 4001, []uint32{7, games}, protected, "", isProtected, ""},
		{"a member says another class", 4001, games, nil, protected, "nightly", `is that of runner class "protected"`, "class \"nightly\"\n"},
		{"a member says it in another case", 4001, games, nil, protected, "Protected", `is that of runner class "protected"`, "bytes of"},
		{"root says nothing", 0, 0, nil, protected, "", isProtected, ""},
		{"root says another class", 0, 0, nil, protected, "nightly", `is that of runner class "protected"`, "bytes of"},
		{"others cannot get there", 4002, nogroup, nil, protected, "protected", denied, "bytes of"},
		{"the class elsewhere", 4002, nogroup, nil, r.socket, "protected", reserved, "bytes of"},
		{"the class elsewhere, by root", 0, 0, nil, r.socket, "protected", reserved, "bytes of"},
		{"both groups, the wrong socket", 4001, nogroup, []uint32{games}, r.socket, "protected", reserved, "bytes of"},
		{"another class elsewhere", 4002, nogroup, nil, r.socket, "nightly", `class "nightly"`, ""},
		{"no class elsewhere", 4002, nogroup, nil, r.socket, "", none, "class \""},
		{"a member on the service's socket", 4001, games, nil, r.socket, "", denied, "bytes of"},
	} {
		out := as(c.uid, c.gid, c.groups, c.socket, "prepare:"+c.class)
		require.Contains(t, out, c.want, c.name)
		if c.unwanted != "" {
			require.NotContains(t, out, c.unwanted, c.name)
		}
	}
	require.Contains(t, as(4001, games, nil, protected, "stuff"), "the call sandbox needs root", "a member drives jobs and does no more")
}

// TestAClassThatIsBoundLater: from the reload on, nobody has it whose socket is not there yet; and one whose socket is there
// stays bound, whatever the file says now.
func TestAClassThatIsBoundLater(t *testing.T) {
	r, protected := classRig(t)
	r.opts.BoundIn = filepath.Join(r.opts.RunDir, "bound")
	require.NoError(t, os.WriteFile(r.opts.BoundIn, []byte("protected"), 0o600))
	h := r.up()
	say := func(socket, class string) string {
		cmd := exec.Command(r.opts.ExecutorPath, socket, "prepare:"+class)
		cmd.Env = []string{testRole + "=driver"}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	require.Contains(t, say(r.socket, "nightly"), `class "nightly"`)
	require.NoError(t, os.WriteFile(r.opts.BoundIn, []byte("nightly"), 0o600))
	h.signal(syscall.SIGHUP)
	h.awaitLog("the configuration was reloaded")
	require.Contains(t, say(r.socket, "nightly"), `runner class "nightly" has a socket of its own`)
	require.Contains(t, say(r.socket, "protected"), `runner class "protected" has a socket of its own`)
	require.Contains(t, say(protected, ""), `class "protected"`)
}

// TestSocketsOfClassesComeBack: after a host that was killed, and one that stopped.
func TestSocketsOfClassesComeBack(t *testing.T) {
	r, protected := classRig(t)
	h := r.up()
	h.kill()
	require.FileExists(t, protected)
	h = r.up()
	require.Equal(t, "x", run(t, protected, "echo", "x").stdout.String())
	h.signal(syscall.SIGTERM)
	require.NoError(t, h.wait())
	require.NoFileExists(t, protected)
}

// TestSocketsThatCannotBe: what is there already stays as it is, and the service does not start with half of its sockets.
func TestSocketsThatCannotBe(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "al-class-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.Mkdir(in("open"), 0o777))
	require.NoError(t, os.Chmod(in("open"), 0o777))
	require.NoError(t, os.Mkdir(in("sticky"), 0o777|os.ModeSticky))
	require.NoError(t, os.Chmod(in("sticky"), 0o777|os.ModeSticky))
	require.NoError(t, os.Mkdir(in("theirs"), 0o755))
	require.NoError(t, os.Chown(in("theirs"), 4001, 4001))
	require.NoError(t, os.Mkdir(in("closed"), 0o700))
	require.NoError(t, os.Symlink(in("closed"), in("link")))
	require.NoError(t, os.WriteFile(in("file"), []byte("mine"), 0o600))
	require.NoError(t, os.Symlink("/etc/passwd", in("linked")))
	listener, err := net.Listen("unix", in("busy"))
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	for path, want := range map[string]string{
		"open/s":     "open can be written by others than root",
		"sticky/s":   "sticky can be written by others than root",
		"theirs/s":   "theirs can be written by others than root",
		"theirs/x/s": "theirs can be written by others than root",
		"closed/s":   "closed does not let the group 60 in",
		"link/s":     "link is no directory",
		"file":       "file is no socket: it is left as it is",
		"linked":     "linked is no socket",
		"busy":       "somebody listens there already",
		"no/no/s":    "making the socket's directory",
	} {
		_, err := listenForClass(in(path), "games")
		require.ErrorContains(t, err, want, path)
	}
	_, err = listenForClass(in("x"), "al-no-such-group")
	require.ErrorContains(t, err, "unknown group al-no-such-group")
	content, err := os.ReadFile(in("file"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(content))

	run := t.TempDir()
	require.NoError(t, os.Chmod(run, 0o755))
	_, err = openEntrances(filepath.Join(run, "main.sock"), Options{RunDir: run, Sockets: []Socket{
		{Path: in("good"), Group: "games", RunnerClass: "a"}, {Path: in("file"), Group: "games", RunnerClass: "b"},
	}})
	require.ErrorContains(t, err, `the socket of runner class "b"`)
	for _, path := range []string{filepath.Join(run, "main.sock"), in("good")} {
		require.NoFileExists(t, path)
	}
}

// TestPeerGroups: more than fit at first.
func TestPeerGroups(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	ours, err := unix.Getgroups()
	require.NoError(t, err)
	groups, err := peerGroups(uintptr(pair[0]))
	require.NoError(t, err)
	require.Len(t, groups, len(ours))

	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o777))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	many := make([]uint32, 300)
	for i := range many {
		many[i] = uint32(5000 + i)
	}
	cmd := exec.Command(os.Args[0], path, "version")
	cmd.Env = []string{testRole + "=driver"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 0, Gid: 0, Groups: many}}
	require.NoError(t, cmd.Start())
	require.NoError(t, listener.SetDeadline(time.Now().Add(30*time.Second)))
	conn, err := listener.AcceptUnix()
	require.NoError(t, err)
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { groups, err = peerGroups(fd) }))
	require.NoError(t, err)
	require.Equal(t, many, groups)
	require.NoError(t, conn.Close())
	_ = cmd.Wait() // its call failed
}
