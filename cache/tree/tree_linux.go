package tree

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Tree is a directory tree that is never left: the kernel is never asked to follow a symbolic link. What links lead
// to is found out by reading them, as if the tree were the root file system.
type Tree struct {
	FD   int
	Root *os.Root // for removing whole directories

	// The parent used last: tars list a directory's files together.
	lastDir string
	lastFD  int
	// askedDir is what locate was asked when it found that parent.
	askedDir string

	// Implied is asked before a directory is made that was only named as a part of paths; nil allows it.
	Implied func() error
}

// Open opens the tree below a directory. The caller must Close it.
func Open(dir string) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Systemf("unpacking: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fault.Systemf("unpacking: opening %s: %w", dir, err), root.Close())
	}
	return &Tree{FD: fd, Root: root, lastFD: -1}, nil
}

// Close closes the tree's descriptors.
func (t *Tree) Close() {
	t.dropLast()
	_ = unix.Close(t.FD)
	_ = t.Root.Close()
}

func (t *Tree) dropLast() {
	if t.lastFD >= 0 {
		_ = unix.Close(t.lastFD)
		t.lastFD = -1
	}
}

// Parent returns a descriptor of the directory that holds name, valid until the next call of a method.
func (t *Tree) Parent(name string, create bool) (int, error) {
	dir := path.Dir(name)
	if t.lastFD >= 0 && t.lastDir == dir {
		return t.lastFD, nil
	}
	fd, err := t.Walk(dir, create)
	if err != nil {
		return 0, err
	}
	t.dropLast()
	t.lastDir, t.askedDir, t.lastFD = dir, dir, fd
	return fd, nil
}

// Walk opens a directory by its path from the root; the caller closes it. Without create, a missing one is
// ENOENT. It follows no symbolic link: ErrThroughLink.
func (t *Tree) Walk(dir string, create bool) (int, error) {
	fd, err := unix.FcntlInt(uintptr(t.FD), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, Classify("opening", dir, err)
	}
	if dir == "." || dir == "" {
		return fd, nil
	}
	for component := range strings.SplitSeq(dir, "/") {
		next, err := t.step(fd, component, dir, create)
		_ = unix.Close(fd)
		if err != nil {
			return 0, err
		}
		fd = next
	}
	return fd, nil
}

func (t *Tree) step(fd int, component, dir string, create bool) (int, error) {
	next, err := OpenDirAt(fd, component)
	if err == nil {
		return next, nil
	}
	missing := errors.Is(err, unix.ENOENT)
	if missing && !create {
		return 0, err
	}
	if !missing && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return 0, Classify("opening", dir, err)
	}
	kind, err := StatKind(fd, component)
	if err != nil {
		return 0, err
	}
	if kind == KindLink {
		return 0, ErrThroughLink
	}
	if kind == KindFile || kind == KindWhiteout && !create {
		return 0, fault.WithRemedy(fault.Authorf("path %.200q leads through %q, which is no directory", dir, component),
			"build the image again: its layers cannot have come from a file system")
	}
	if t.Implied != nil {
		if err := t.Implied(); err != nil {
			return 0, err
		}
	}
	return makeImplied(fd, component, dir, kind == KindWhiteout)
}

// Clear makes way for an entry of a kind. A directory stays for a directory. It returns what was there.
func (t *Tree) Clear(parent int, name string, wanted Kind) (Kind, error) {
	base := path.Base(name)
	was, err := StatKind(parent, base)
	if err != nil || was == KindNone || was == KindDir && wanted == KindDir {
		return was, err
	}
	if was == KindDir {
		t.dropLast()
		if err := t.Root.RemoveAll(name); err != nil {
			return was, fault.Systemf("unpacking: replacing %q: %w", name, err)
		}
		return was, nil
	}
	return was, Classify("replacing", name, unix.Unlinkat(parent, base, 0))
}
