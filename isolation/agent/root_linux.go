package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// root is one root file system as the agent sees it. Paths in it are resolved as a process that is chrooted there
// would: no link leads out of it.
type root struct {
	path   string   // "" for the agent's own, else where it is attached
	fd     int      // the directory itself
	mounts []string // what is mounted in its isolation.Dir
	helper bool
}

func openRoot(dir string) (*root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the root file system %s: %w", dir, err)
	}
	return &root{path: strings.TrimSuffix(dir, "/"), fd: fd}, nil
}

// open opens a path of the root: see layout.OpenIn.
func (r *root) open(path string, flags int, resolve uint64) (int, error) {
	return layout.OpenIn(r.fd, path, flags, resolve)
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

// command returns the path of a command, looked up as execvp(3) does. A name with a slash stands for itself.
func (r *root) command(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	dirs := searchPath(pathOf(env))
	for _, dir := range dirs {
		if file := path.Join(dir, name); name != "" && r.isExecutable(file) {
			return file, nil
		}
	}
	return "", r.blame(fault.WithRemedy(
		fault.Authorf("command %q not found in %s", name, strings.Join(dirs, ":")),
		"check its name, or give its full path"))
}

// searchPath returns the absolute directories of a PATH.
func searchPath(path string) []string {
	var dirs []string
	for dir := range strings.SplitSeq(path, ":") {
		if strings.HasPrefix(dir, "/") {
			dirs = append(dirs, dir)
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
	passwd, err := r.readAccounts(layout.PasswdFile)
	if err != nil {
		return account{}, err
	}
	group, err := r.readAccounts(layout.GroupFile)
	if err != nil {
		return account{}, err
	}
	found, err := user.GetExecUser(spec, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return account{}, accountError(spec, err)
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

// accountError says why a user was not found: there is none, or the files cannot be read as what they should be.
func accountError(spec string, err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return fault.WithRemedy(
			fault.Authorf("looking up the user %q in the image's %s and %s: a line is too long", spec, layout.PasswdFile, layout.GroupFile),
			"repair these files of the image")
	}
	return fault.WithRemedy(
		fault.Authorf("the user %q does not exist in the image: %w", spec, err),
		"use a name of its /etc/passwd, or a numeric id")
}

// readAccounts returns a passwd or group file; one that is missing counts as empty.
func (r *root) readAccounts(path string) ([]byte, error) {
	file, err := layout.OpenAccounts(r.fd, path)
	if err != nil || file == nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, layout.MaxAccounts))
	if err != nil {
		return nil, fault.Authorf("reading the image's %s: %w", path, err)
	}
	return content, nil
}

// blame makes of an author's failure the administrator's when the root is the helper image's.
func (r *root) blame(err error) error {
	if r.helper && fault.ClassOf(err) == fault.Author {
		return fault.Adminf("in the helper image: %w", err)
	}
	return err
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
		typ, payload, err := frame.Read(s.frames, s.buf)
		if err != nil {
			return 0, fmt.Errorf("receiving the script: %w", err)
		}
		if typ != frameScript || len(payload) == 0 || int64(len(payload)) > s.left {
			return 0, fmt.Errorf("%w: a frame of type %d with %d bytes instead of a script's", frame.ErrProtocol, typ, len(payload))
		}
		s.payload = payload
		s.left -= int64(len(payload))
	}
	n := copy(p, s.payload)
	s.payload = s.payload[n:]
	return n, nil
}
