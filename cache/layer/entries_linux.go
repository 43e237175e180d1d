package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
	"github.com/airlock-ci/airlock/internal/fault"
)

func (u *unpacker) directory(header *tar.Header, name string) error {
	parent, err := u.tree.Parent(name, true)
	if err != nil {
		return err
	}
	was, err := u.tree.Clear(parent, name, tree.KindDir)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if was != tree.KindDir {
		if err := unix.Mkdirat(parent, base, 0o700); err != nil {
			return tree.Classify("making", name, err)
		}
	}
	fd, err := tree.OpenDirAt(parent, base)
	if err != nil {
		return tree.Classify("opening", name, err)
	}
	defer unix.Close(fd)
	if was == tree.KindWhiteout {
		// The lower directory is removed and this is another one.
		if err := tree.SetOpaque(fd); err != nil {
			return err
		}
	}
	if err := tree.UnmarkImplied(fd); err != nil {
		return err
	}
	u.dirTimes[name] = header.ModTime
	return u.setAttributes(fd, header)
}

func (u *unpacker) file(header *tar.Header, name string, content io.Reader) (err error) {
	parent, err := u.place(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return tree.Classify("making", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.CopyBuffer(diskWriter{f}, content, u.buffer); err != nil {
		return fmt.Errorf("reading %q: %w", name, err)
	}
	if err := u.setAttributes(fd, header); err != nil {
		return err
	}
	return setTime(parent, base, name, header.ModTime)
}

func (u *unpacker) symlink(header *tar.Header, name string) error {
	parent, err := u.place(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if header.Linkname == "" {
		return fault.Authorf("%.200q is a symbolic link to nothing", name)
	}
	if err := unix.Symlinkat(header.Linkname, parent, base); err != nil {
		return tree.Classify("making", name, err)
	}
	if err := unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return tree.Classify("changing the owner of", name, err)
	}
	return setTime(parent, base, name, header.ModTime)
}

func (u *unpacker) hardLink(header *tar.Header, name string) error {
	target := strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")
	broken := fault.Authorf("%.200q is a hard link to %.200q, which is no file of the same layer", name, target)
	if target == "" || target == name {
		return broken
	}
	parent, err := u.place(name)
	if err != nil {
		return err
	}
	dir, err := tree.Resolve(path.Dir(target), u.tree.Look)
	if err != nil {
		return err
	}
	from, err := u.tree.Walk(dir, false)
	if err != nil {
		if tree.NotThere(err) == nil {
			return broken
		}
		return err
	}
	defer unix.Close(from)
	switch kind, err := tree.StatKind(from, path.Base(target)); {
	case err != nil:
		return err
	case kind != tree.KindFile && kind != tree.KindLink:
		return broken
	}
	return tree.Classify("linking", name, unix.Linkat(from, path.Base(target), parent, path.Base(name), 0))
}

func (u *unpacker) fifo(header *tar.Header, name string) error {
	parent, err := u.place(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
		return tree.Classify("making", name, err)
	}
	if err := unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return tree.Classify("changing the owner of", name, err)
	}
	// The name is what was just made: no symbolic link to follow.
	if err := unix.Fchmodat(parent, base, permissions(header), 0); err != nil {
		return tree.Classify("changing the mode of", name, err)
	}
	return setTime(parent, base, name, header.ModTime)
}

// place returns the directory for a new entry that is no directory, whatever had its name removed.
func (u *unpacker) place(name string) (parent int, err error) {
	if parent, err = u.tree.Parent(name, true); err != nil {
		return 0, err
	}
	was, err := u.tree.Clear(parent, name, tree.KindFile)
	if err == nil && was == tree.KindDir {
		delete(u.dirTimes, name)
		parent, err = u.tree.Parent(name, true) // clear closed it
	}
	return parent, err
}

// diskWriter classifies what goes wrong on our side of a copy; reading's errors stay the archive's. It hides
// the file's ReadFrom, so that the buffer is used.
type diskWriter struct{ f *os.File }

// Write is io.Writer's.
func (w diskWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	return n, tree.Classify("writing", w.f.Name(), err)
}

func setTime(parent int, base, name string, when time.Time) error {
	return tree.Classify("setting the time of", name, unix.UtimesNanoAt(parent, base, timespecs(when), unix.AT_SYMLINK_NOFOLLOW))
}

// maxTime is the last second that ext4 can tell: in the year 2446.
const maxTime = 1<<34 - 1<<31 - 1

// timespecs are a time as access and modification time, kept to what every file system and a disk can tell.
func timespecs(when time.Time) []unix.Timespec {
	both := unix.Timespec{Sec: min(max(when.Unix(), 0), maxTime), Nsec: int64(when.Nanosecond())}
	return []unix.Timespec{both, both}
}
