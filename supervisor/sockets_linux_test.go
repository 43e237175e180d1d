package supervisor

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// classRig is a supervisor with a socket of its own for the class "protected".
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
	const nogroup, games = 65534, 60
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
		out := r.asUser(c.uid, c.gid, c.groups, c.socket, "prepare:"+c.class)
		require.Contains(t, out, c.want, c.name)
		if c.unwanted != "" {
			require.NotContains(t, out, c.unwanted, c.name)
		}
	}
	require.Contains(t, r.asUser(4001, games, nil, protected, "stuff"), "the call sandbox needs root", "a member drives jobs and does no more")
}

// TestAClassThatIsBoundLater: from the reload on, nobody has it whose socket is not there yet; and one whose socket is there
// stays bound, whatever the file says now.
func TestAClassThatIsBoundLater(t *testing.T) {
	r, protected := classRig(t)
	r.script.Bound = []string{"protected"}
	r.configure()
	r.up()
	say := func(socket, class string) string {
		cmd := exec.Command(r.opts.ExecutorPath, socket, "prepare:"+class)
		cmd.Env = []string{testRole + "=driver"}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	require.Contains(t, say(r.socket, "nightly"), `class "nightly"`)
	r.script.Bound = []string{"nightly"}
	r.configure()
	require.Contains(t, say(r.socket, "nightly"), `runner class "nightly" has a socket of its own`)
	require.Contains(t, say(r.socket, "protected"), `runner class "protected" has a socket of its own`)
	require.Contains(t, say(protected, ""), `class "protected"`)
}

// TestSocketsOfClassesComeBack: after a supervisor that was killed, and one that stopped.
func TestSocketsOfClassesComeBack(t *testing.T) {
	r, protected := classRig(t)
	s := r.up()
	echoes(t, protected)
	s.kill()
	echoes(t, protected) // the executor has it still
	s = r.up()
	s.awaitLog("attached to the executor")
	echoes(t, protected)
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.NoFileExists(t, protected)
}

// TestASocketThatIsNotWantedAnyMore goes with the next supervisor, though the executor that was left had it; a new one comes.
func TestASocketThatIsNotWantedAnyMore(t *testing.T) {
	r, protected := classRig(t)
	s := r.up()
	prepare(t, r.socket)
	left := r.executor()
	s.kill()
	nightly := filepath.Join(filepath.Dir(protected), "nightly.sock")
	r.opts.Sockets = []Socket{{Path: nightly, Group: "games", RunnerClass: "nightly"}}
	s = r.up()
	s.awaitLog("attached to the executor")
	require.NoFileExists(t, protected)
	echoes(t, nightly)
	require.Equal(t, left.Instance, r.executor().Instance)

	// It is known by the record: an executor that does not answer is no stranger there.
	s.kill()
	require.NoError(t, syscall.Kill(left.Process.PID, syscall.SIGSTOP))
	s = r.up()
	s.awaitLog("ending an executor that no supervisor knows")
	require.NoError(t, syscall.Kill(left.Process.PID, syscall.SIGCONT))
	echoes(t, nightly)
	require.NotEqual(t, left.Instance, r.executor().Instance)
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
	run := t.TempDir()
	require.NoError(t, os.Chmod(run, 0o755))
	open := func(known []string, classes ...Socket) error {
		s := newSockets(Options{RunDir: run, SocketPath: filepath.Join(run, "main.sock"), Sockets: classes})
		err := s.open(known)
		s.close(err == nil)
		return err
	}
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
		err := open(nil, Socket{Path: in(path), Group: "games", RunnerClass: "a"})
		require.ErrorContains(t, err, want, path)
	}
	require.ErrorContains(t, open(nil, Socket{Path: in("x"), Group: "al-no-such-group", RunnerClass: "a"}), "unknown group al-no-such-group")
	content, err := os.ReadFile(in("file"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(content))

	require.ErrorContains(t, open(nil, Socket{Path: in("good"), Group: "games", RunnerClass: "a"},
		Socket{Path: in("file"), Group: "games", RunnerClass: "b"}), `the socket of runner class "b"`)
	for _, path := range []string{filepath.Join(run, "main.sock"), in("good")} {
		require.NoFileExists(t, path)
	}
	require.NoError(t, open([]string{in("busy")}, Socket{Path: in("busy"), Group: "games", RunnerClass: "a"}), "an executor of ours listens there")
}

// asUser runs the driver of driverMain as a user, on a copy of the program where that user may go, and returns what it
// says.
func (r *rig) asUser(uid, gid uint32, groups []uint32, socket, stage string) string {
	r.t.Helper()
	binary := filepath.Join(r.opts.RunDir, "driver")
	if _, err := os.Stat(binary); err != nil {
		text, err := os.ReadFile(r.opts.ExecutorPath)
		require.NoError(r.t, err)
		require.NoError(r.t, os.WriteFile(binary, text, 0o755))
	}
	cmd := exec.Command(binary, socket, stage)
	cmd.Dir, cmd.Env = "/", []string{testRole + "=driver"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out) + "failed: " + err.Error()
	}
	return string(out)
}

func TestWhoMayDoWhat(t *testing.T) {
	r := newRig(t)
	r.opts.Group = "nogroup"
	r.up()
	echoes(t, r.socket) // root may
	for path, mode := range map[string]os.FileMode{r.socket: 0o660, filepath.Dir(r.socket): 0o750,
		paths{r.opts.RunDir}.plugin(): 0o700} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	as := func(uid, gid uint32, stage string) string { return r.asUser(uid, gid, nil, r.socket, stage) }
	const nobody, nogroup = 65534, 65534

	require.Equal(t, "on stderr", as(nobody, nogroup, "echo"), "a member of the group may run stages")
	require.Contains(t, as(nobody, nogroup, "stuff"), "the call sandbox needs root; user 65534 is not")
	require.Contains(t, as(nobody, nogroup, "images"), "the call images needs root; user 65534 is not")
	require.Contains(t, as(1234, 1234, "images"), "permission denied", "the directory keeps others out")

	// Were the directory open, the credentials would still be checked.
	require.NoError(t, os.Chmod(filepath.Dir(r.socket), 0o755))
	require.NoError(t, os.Chmod(r.socket, 0o666))
	for _, stage := range []string{"images", "echo"} {
		require.Contains(t, as(1234, 1234, stage), `user 1234 is neither root nor in the group "nogroup"`)
	}
	// nobody's primary group is nogroup, also when it runs with another one.
	require.Equal(t, "on stderr", as(nobody, 1234, "echo"))
}

// TestWhoMayDoWhatWithoutAGroup: root alone.
func TestWhoMayDoWhatWithoutAGroup(t *testing.T) {
	r := newRig(t)
	r.up()
	echoes(t, r.socket)
	require.Contains(t, r.asUser(65534, 65534, nil, r.socket, "echo"), "permission denied")
	require.NoError(t, os.Chmod(filepath.Dir(r.socket), 0o755))
	require.NoError(t, os.Chmod(r.socket, 0o666))
	require.Contains(t, r.asUser(65534, 65534, nil, r.socket, "echo"), "needs root, since no group is configured; user 65534 is not")
}
