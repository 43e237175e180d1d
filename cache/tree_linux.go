package cache

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// tree is a directory tree that is walked without ever following a symbolic link or leaving it.
type tree struct {
	fd   int
	root *os.Root // for removing whole directories

	// The parent used last: tars list a directory's files together.
	lastDir string
	lastFD  int
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Systemf("unpacking: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fault.Systemf("unpacking: opening %s: %w", dir, err), root.Close())
	}
	return &tree{fd: fd, root: root, lastFD: -1}, nil
}

func (t *tree) close() {
	t.dropLast()
	_ = unix.Close(t.fd)
	_ = t.root.Close()
}

func (t *tree) dropLast() {
	if t.lastFD >= 0 {
		_ = unix.Close(t.lastFD)
		t.lastFD = -1
	}
}

// parent returns a descriptor of the directory that holds name, valid until the next call of a method.
func (t *tree) parent(name string, create bool) (int, error) {
	dir := path.Dir(name)
	if t.lastFD >= 0 && t.lastDir == dir {
		return t.lastFD, nil
	}
	fd, err := t.walk(dir, create)
	if err != nil {
		return 0, err
	}
	t.dropLast()
	t.lastDir, t.lastFD = dir, fd
	return fd, nil
}

// walk opens a directory by its path from the root; the caller closes it. Without create, a missing one is
// ENOENT.
func (t *tree) walk(dir string, create bool) (int, error) {
	fd, err := unix.FcntlInt(uintptr(t.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, system("opening", dir, err)
	}
	if dir == "." || dir == "" {
		return fd, nil
	}
	for component := range strings.SplitSeq(dir, "/") {
		next, err := step(fd, component, dir, create)
		_ = unix.Close(fd)
		if err != nil {
			return 0, err
		}
		fd = next
	}
	return fd, nil
}

func step(fd int, component, dir string, create bool) (int, error) {
	next, err := openDirAt(fd, component)
	if err == nil {
		return next, nil
	}
	missing := errors.Is(err, unix.ENOENT)
	if missing && !create {
		return 0, err
	}
	if !missing && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return 0, system("opening", dir, err)
	}
	kind, err := statKind(fd, component)
	if err != nil {
		return 0, err
	}
	if kind == kindOther || kind == kindWhiteout && !create {
		return 0, fault.WithRemedy(fault.Authorf("path %q leads through %q, which is no directory", dir, component),
			"build the image again: its layers cannot have come from a file system")
	}
	return makeImplied(fd, component, dir, kind == kindWhiteout)
}

// makeImplied makes a directory that the tar names only as a part of paths.
func makeImplied(parent int, component, dir string, overWhiteout bool) (int, error) {
	if overWhiteout {
		if err := unix.Unlinkat(parent, component, 0); err != nil {
			return 0, system("replacing", dir, err)
		}
	}
	if err := unix.Mkdirat(parent, component, 0o755); err != nil {
		return 0, system("making", dir, err)
	}
	fd, err := openDirAt(parent, component)
	if err != nil {
		return 0, system("opening", dir, err)
	}
	err = system("changing the mode of", dir, unix.Fchmod(fd, 0o755)) // whatever the umask
	if err == nil && overWhiteout {
		err = setOpaque(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// clear makes way for an entry of a kind. A directory stays for a directory. It returns what was there.
func (t *tree) clear(parent int, name string, wanted kind) (kind, error) {
	base := path.Base(name)
	was, err := statKind(parent, base)
	if err != nil || was == kindNone || was == kindDir && wanted == kindDir {
		return was, err
	}
	if was == kindDir {
		t.dropLast()
		if err := t.root.RemoveAll(name); err != nil {
			return was, fault.Systemf("unpacking: replacing %q: %w", name, err)
		}
		return was, nil
	}
	return was, system("replacing", name, unix.Unlinkat(parent, base, 0))
}

// kind is what a name stands for.
type kind int

const (
	kindNone kind = iota
	kindDir
	kindWhiteout
	kindOther
)

func statKind(parent int, base string) (kind, error) {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return kindNone, nil
	case err != nil:
		return kindNone, system("looking at", base, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return kindDir, nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return kindWhiteout, nil
	default:
		return kindOther, nil
	}
}

func openDirAt(parent int, base string) (int, error) {
	return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func setOpaque(fd int) error {
	return system("marking as opaque", "a directory", unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0))
}

// setAttributes sets owner, mode and extended attributes, in the order in which none undoes another: chown
// clears set-user-id bits and capabilities.
func (t *tree) setAttributes(fd int, header *tar.Header) error {
	if err := unix.Fchown(fd, header.Uid, header.Gid); err != nil {
		return system("changing the owner of", header.Name, err)
	}
	if err := unix.Fchmod(fd, permissions(header)); err != nil {
		return system("changing the mode of", header.Name, err)
	}
	for key, value := range header.PAXRecords {
		attribute, found := strings.CutPrefix(key, "SCHILY.xattr.")
		if !found || !keptAttribute(attribute) {
			continue
		}
		err := unix.Fsetxattr(fd, attribute, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) && strings.HasPrefix(attribute, "user.") {
			continue // no program relies on them
		}
		if err != nil {
			return system("setting "+attribute+" of", header.Name, err)
		}
	}
	return nil
}

// keptAttribute leaves out what steers overlayfs or the host: trusted.*, user.overlay.*, labels of security
// modules.
func keptAttribute(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

func permissions(header *tar.Header) uint32 { return uint32(header.Mode) & 0o7777 }

func setTime(parent int, base, name string, when time.Time) error {
	return system("setting the time of", name, unix.UtimesNanoAt(parent, base, timespecs(when), unix.AT_SYMLINK_NOFOLLOW))
}

func timespecs(when time.Time) []unix.Timespec {
	both := unix.Timespec{Sec: when.Unix(), Nsec: int64(when.Nanosecond())}
	return []unix.Timespec{both, both}
}

// system classifies a failed system call. What only the tar's content can cause is the author's.
func system(doing, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EMLINK), errors.Is(err, unix.E2BIG):
		return fault.Authorf("the image holds what no file system can: %s %.200q: %w", doing, name, err)
	default:
		return fault.Systemf("unpacking: %s %.200q: %w", doing, name, err)
	}
}

// syncFileSystem makes everything written below dir last.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the cache: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fault.Systemf("syncing the cache: %w", err)
	}
	return nil
}
