package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// maxAccounts bounds what is read of an image's passwd and group files, in bytes.
const maxAccounts = 4 << 20

// root is one root file system as the agent sees it. Paths in it are resolved as a process that is chrooted there
// would: no link leads out of it.
type root struct {
	path    string // "" for the agent's own, else where it is attached
	fd      int    // the directory itself
	scripts int    // its isolation.ScriptDir
}

func openRoot(dir string) (*root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the root file system %s: %w", dir, err)
	}
	return &root{path: strings.TrimSuffix(dir, "/"), fd: fd, scripts: -1}, nil
}

// open opens a path of the root. Concurrent renames make openat2(2) give up with EAGAIN; it is tried again.
func (r *root) open(path string, flags int, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | resolve}
	for range 100 {
		fd, err := unix.Openat2(r.fd, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

func (r *root) stat(path string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.open(path, unix.O_PATH, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	err = unix.Fstat(fd, &st)
	return st, err
}

func (r *root) isDir(path string) bool {
	st, err := r.stat(path)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func (r *root) isExecutable(path string) bool {
	st, err := r.stat(path)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}

// shell returns the root's bash, else its sh.
func (r *root) shell(env []string) (string, error) {
	dirs := append(searchPath(env), "/bin", "/usr/bin", "/usr/local/bin")
	for _, name := range []string{"bash", "sh"} {
		for _, dir := range dirs {
			if file := path.Join(dir, name); r.isExecutable(file) {
				return file, nil
			}
		}
	}
	return "", fault.WithRemedy(
		fault.Authorf("the image has no shell: neither bash nor sh is in %s", strings.Join(dirs, ":")),
		"use an image that has one, for example the image's variant with a shell instead of a distroless one")
}

// command returns the path of a command, looked up as execvp(3) does. A name with a slash stands for itself.
func (r *root) command(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	dirs := searchPath(env)
	for _, dir := range dirs {
		if file := path.Join(dir, name); name != "" && r.isExecutable(file) {
			return file, nil
		}
	}
	return "", fault.WithRemedy(
		fault.Authorf("command %q not found in %s", name, strings.Join(dirs, ":")),
		"check its name, or give its full path")
}

// searchPath returns the absolute directories in the PATH of an environment.
func searchPath(env []string) []string {
	var dirs []string
	for _, pair := range env {
		value, ok := strings.CutPrefix(pair, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(value, ":") {
			if path.IsAbs(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// account is a user with its groups.
type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

// account resolves "", "name", "uid", "name:group" or "uid:gid" against the root's own passwd and group files, with
// Docker's rules: a number needs no entry, and "" is root.
func (r *root) account(spec string) (account, error) {
	passwd, err := r.openAccounts("/etc/passwd")
	if err != nil {
		return account{}, err
	}
	defer passwd.Close()
	group, err := r.openAccounts("/etc/group")
	if err != nil {
		return account{}, err
	}
	defer group.Close()
	found, err := user.GetExecUser(spec, nil, passwd, group)
	if err != nil {
		return account{}, fault.WithRemedy(
			fault.Authorf("the user %q does not exist in the image: %w", spec, err),
			"use a name of its /etc/passwd, or a numeric id")
	}
	a := account{uid: found.Uid, gid: found.Gid, home: found.Home}
	if a.home == "" {
		a.home = "/"
	}
	// The primary group is a supplementary one, too, or a setgid program could shed it and with it what files deny
	// to the group (CVE-2022-2995).
	a.groups = []uint32{uint32(a.gid)}
	for _, gid := range found.Sgids {
		if gid != a.gid {
			a.groups = append(a.groups, uint32(gid))
		}
	}
	return a, nil
}

// openAccounts opens a passwd or group file; one that is missing counts as empty.
func (r *root) openAccounts(path string) (io.ReadCloser, error) {
	// O_NONBLOCK, because an image may have a FIFO there.
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the image's %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fault.Authorf("the image's %s is not a regular file", path)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(file, maxAccounts), file}, nil
}

// writeScript writes a script to a file that only the user can read, and returns its name in isolation.ScriptDir.
// Nobody can have put anything in its place, because the name cannot be guessed.
func (r *root) writeScript(script io.Reader, a account) (name string, err error) {
	name = "stage-" + rand.Text()
	fd, err := unix.Openat(r.scripts, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing the script to %s%s: %w", r.path, isolation.ScriptDir, err)
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(file, script)
	if err = errors.Join(err, file.Chown(a.uid, a.gid), file.Chmod(0o700), file.Close()); err != nil {
		r.removeScript(name)
		return "", fmt.Errorf("writing the script to %s%s for user %d: %w", r.path, isolation.ScriptDir, a.uid, err)
	}
	return name, nil
}

// scriptReader reads a script out of its frames; it ends after as many bytes as were announced.
type scriptReader struct {
	frames  io.Reader
	left    int64
	buf     []byte
	payload []byte // the unread part of the current frame
}

func (s *scriptReader) Read(p []byte) (int, error) {
	if len(s.payload) == 0 {
		if s.left == 0 {
			return 0, io.EOF
		}
		typ, payload, err := readFrame(s.frames, s.buf)
		if err != nil {
			return 0, fmt.Errorf("receiving the script: %w", err)
		}
		if typ != frameScript || len(payload) == 0 || int64(len(payload)) > s.left {
			return 0, fmt.Errorf("%w: a frame of type %d with %d bytes instead of a script's", errProtocol, typ, len(payload))
		}
		s.payload = payload
		s.left -= int64(len(payload))
	}
	n := copy(p, s.payload)
	s.payload = s.payload[n:]
	return n, nil
}

// removeScript removes a script; one that the job removed itself is fine.
func (r *root) removeScript(name string) {
	_ = unix.Unlinkat(r.scripts, name, 0)
}
