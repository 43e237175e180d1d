package tree

import (
	"context"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// OpenAll opens a directory in each layer, upper-most first, down to the one that hides those below.
func OpenAll(ctx context.Context, name string, layers []*Tree) (fds []int, opened []*Tree, err error) {
	if ctx.Err() != nil {
		return nil, nil, fault.Systemf("interrupted: %w", context.Cause(ctx))
	}
	for _, t := range layers {
		fd, err := t.Walk(name, false)
		if err != nil {
			CloseAll(fds)
			return nil, nil, Reading("opening", name, err)
		}
		fds, opened = append(fds, fd), append(opened, t)
		if IsOpaque(fd) {
			break
		}
	}
	return fds, opened, nil
}

// CloseAll closes descriptors.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// Child is one name in a merged directory.
type Child struct {
	Layer  int   // the upper-most layer that has it
	Dirs   []int // the layers whose directories of that name are merged; none: it is no directory
	Hidden bool  // the upper-most layer whites it out
	ended  bool  // what layers further below have is hidden
}

// List merges the names of a directory in several layers.
func List(name string, fds []int) (map[string]*Child, error) {
	children := map[string]*Child{}
	for i, fd := range fds {
		names, err := NamesIn(fd)
		if err != nil {
			return nil, Reading("listing", name, err)
		}
		for _, base := range names {
			c := children[base]
			if c != nil && c.ended {
				continue
			}
			kind, err := StatKind(fd, base)
			if err != nil {
				return nil, Reading("looking at", path.Join(name, base), err)
			}
			switch {
			case kind == KindDir && c == nil:
				children[base] = &Child{Layer: i, Dirs: []int{i}}
			case kind == KindDir:
				c.Dirs = append(c.Dirs, i)
			case c == nil:
				children[base] = &Child{Layer: i, Hidden: kind == KindWhiteout, ended: true}
			default:
				c.ended = true
			}
		}
	}
	return children, nil
}

// NamesIn lists a directory, in no order.
func NamesIn(fd int) ([]string, error) {
	again, err := OpenDirAt(fd, ".") // a descriptor of its own, to be closed with its os.File
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(again), ".")
	defer dir.Close()
	return dir.Readdirnames(-1)
}
