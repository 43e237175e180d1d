package layer

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
)

// settled is a directory that is being settled.
type settled struct {
	name    string
	fd      int
	below   []int // the same directory in layers, upper-most first
	layers  []*tree.Tree
	opaque  bool
	implied bool
	isNew   bool // no layer below has it, or this one removes theirs
	entries int
	times   unix.Timespec // of modification, at the end
}

func (s *settler) open(name string, layers []*tree.Tree) (_ *settled, err error) {
	d := &settled{name: name}
	if d.fd, err = s.own.Walk(name, false); err != nil {
		return nil, tree.Reading("opening", name, err)
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.below, d.layers, err = tree.OpenAll(s.ctx, name, layers); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, tree.Reading("looking at", name, err)
	}
	d.times, d.opaque = st.Mtim, tree.IsOpaque(d.fd)
	as := tree.ImpliedAs(d.fd)
	d.implied, d.isNew = as != "", as == tree.ImpliedNew || len(d.below) == 0
	return d, nil
}

func (d *settled) close() {
	d.closeBelow()
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

// adopt gives a directory that the layer does not list the attributes that it has below.
func (d *settled) adopt() error {
	if err := tree.UnmarkImplied(d.fd); err != nil || !d.implied || d.isNew {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.below[0], &st); err != nil {
		return tree.Reading("looking at", d.name, err)
	}
	d.times = st.Mtim
	return changing("giving attributes to", d.name, tree.CopyAttributes(d.fd, d.below[0], &st))
}

func (d *settled) closeBelow() {
	tree.CloseAll(d.below)
	d.below = nil
}

// hideAll makes whiteouts of the mark on the root.
func (d *settled) hideAll() error {
	shown, err := tree.List(d.name, d.below)
	if err != nil {
		return err
	}
	for base, c := range shown {
		if c.Hidden {
			continue
		}
		kind, err := tree.StatKind(d.fd, base)
		if err != nil {
			return err
		}
		switch kind {
		case tree.KindNone:
			err = unix.Mknodat(d.fd, base, unix.S_IFCHR, 0)
		case tree.KindDir:
			err = replaceLowerAt(d.fd, base)
		}
		if err != nil {
			return changing("hiding", base, err)
		}
	}
	d.opaque = false
	return changing("unmarking", d.name, unix.Fremovexattr(d.fd, tree.OpaqueAttribute))
}

// replaceLowerAt is ReplaceLower for a name in a directory.
func replaceLowerAt(parent int, base string) error {
	fd, err := tree.OpenDirAt(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return tree.ReplaceLower(fd)
}

// settledChild is a directory in a directory of the layer.
type settledChild struct {
	name     string
	link     string       // where the symbolic link leads that is in its place below
	layers   []*tree.Tree // those that have the directory, too
	replaces bool         // it is there because the layer removes what is below
}

// children returns the directories in a directory, and the whiteouts that hide nothing.
func (d *settled) children() (dirs []settledChild, idle []string, err error) {
	names, err := tree.NamesIn(d.fd)
	if err != nil {
		return nil, nil, tree.Reading("listing", d.name, err)
	}
	d.entries = len(names)
	below := d.below
	if d.opaque {
		below = nil
	}
	for _, base := range names {
		kind, err := tree.StatKind(d.fd, base)
		if err != nil {
			return nil, nil, err
		}
		if kind != tree.KindDir && kind != tree.KindWhiteout {
			continue
		}
		has, link, err := firstIn(below, base)
		if err != nil {
			return nil, nil, err
		}
		hidden := has == tree.KindNone || has == tree.KindWhiteout
		if kind == tree.KindWhiteout {
			if hidden {
				idle = append(idle, base)
			}
			continue
		}
		as := impliedAt(d.fd, base)
		c := settledChild{name: base, replaces: as == tree.ImpliedNew && !hidden}
		if has == tree.KindLink && as == tree.ImpliedLower {
			c.link = link
		}
		if has == tree.KindDir {
			if c.layers, err = sameDirs(below, d.layers, base); err != nil {
				return nil, nil, err
			}
		}
		dirs = append(dirs, c)
	}
	return dirs, idle, nil
}

// firstIn returns what is under a name in the upper-most of some directories that has the name.
func firstIn(fds []int, base string) (tree.Kind, string, error) {
	for _, fd := range fds {
		if kind, link, err := tree.LookIn(fd, base); err != nil || kind != tree.KindNone {
			return kind, link, err
		}
	}
	return tree.KindNone, "", nil
}

// sameDirs returns the layers whose directories of a name are merged.
func sameDirs(fds []int, layers []*tree.Tree, base string) (same []*tree.Tree, err error) {
	for i, fd := range fds {
		switch kind, err := tree.StatKind(fd, base); {
		case err != nil:
			return nil, err
		case kind == tree.KindDir:
			same = append(same, layers[i])
		case kind != tree.KindNone:
			return same, nil
		}
	}
	return same, nil
}

func impliedAt(parent int, base string) string {
	fd, err := tree.OpenDirAt(parent, base)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	return tree.ImpliedAs(fd)
}

func (d *settled) remove(base string, flags int) error {
	d.entries--
	return changing("removing", path.Join(d.name, base), unix.Unlinkat(d.fd, base, flags))
}

// vanishes reports whether a directory is there only for what hid nothing.
func (d *settled) vanishes() bool { return d.implied && d.isNew && d.entries == 0 && d.name != "" }

// finish sets the time last: what was removed from the directory changed it.
func (d *settled) finish() error {
	return changing("setting the time of", d.name, setTimeOf(d.fd, d.times))
}

func setTimeOf(fd int, when unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{when, when}, 0)
}
