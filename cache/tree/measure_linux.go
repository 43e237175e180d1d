package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Measure returns what a directory tree takes: allocated blocks, and inodes of which each counts once. It goes down and
// up by descriptors, one at a time: paths in an image may be longer than the kernel takes in one, and deeper than a
// process may have descriptors.
func Measure(ctx context.Context, dir string) (space.Use, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return space.Use{}, fmt.Errorf("opening %s: %w", dir, err)
	}
	m := &measuring{ctx: ctx, fd: fd, linked: map[FileID]struct{}{}}
	defer func() { _ = unix.Close(m.fd) }()
	var top unix.Stat_t
	if err := unix.Fstat(fd, &top); err != nil {
		return space.Use{}, fmt.Errorf("looking at %s: %w", dir, err)
	}
	m.add(&top)
	if err := m.walk(); err != nil {
		return space.Use{}, fmt.Errorf("measuring %s: %w", dir, err)
	}
	return m.use, nil
}

type measuring struct {
	ctx    context.Context //nolint:containedctx // of this one walk
	fd     int             // the directory where the walk is
	use    space.Use
	linked map[FileID]struct{} // files with several names that were counted
}

// walk counts what is below m.fd. The list of directories yet to be entered is kept for each level of the way down.
func (m *measuring) walk() error {
	below, err := m.list()
	if err != nil {
		return err
	}
	levels := [][]string{below}
	for {
		last := len(levels) - 1
		if len(levels[last]) == 0 {
			if levels = levels[:last]; last == 0 {
				return nil
			}
			if err := m.enter(".."); err != nil {
				return err
			}
			continue
		}
		next := levels[last][0]
		levels[last] = levels[last][1:]
		if err := m.enter(next); err != nil {
			return err
		}
		if below, err = m.list(); err != nil {
			return err
		}
		levels = append(levels, below)
	}
}

func (m *measuring) enter(name string) error {
	next, err := OpenDirAt(m.fd, name)
	if err != nil {
		return err
	}
	_ = unix.Close(m.fd)
	m.fd = next
	return nil
}

// list counts what is in the directory and returns the names of its directories.
func (m *measuring) list() (dirs []string, err error) {
	if m.ctx.Err() != nil {
		return nil, fault.Systemf("interrupted: %w", context.Cause(m.ctx))
	}
	again, err := OpenDirAt(m.fd, ".") // a descriptor of its own, to be closed with its os.File
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(again), ".")
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(namesAtATime)
		if errors.Is(err, io.EOF) {
			return dirs, nil
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(m.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return nil, err
			}
			m.add(&st)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				dirs = append(dirs, name)
			}
		}
	}
}

// namesAtATime bounds what of a directory is in memory.
const namesAtATime = 1000

func (m *measuring) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := FileID{st.Dev, st.Ino}
		if _, counted := m.linked[id]; counted {
			return
		}
		m.linked[id] = struct{}{}
	}
	m.use = m.use.Plus(space.Use{Bytes: st.Blocks * 512, Inodes: 1})
}

// FileID tells files apart, whatever their names.
type FileID struct{ Dev, Ino uint64 }
