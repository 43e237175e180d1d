package cache

import (
	"context"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// settle fits an unpacked layer to the layers below it, upper-most first, so that overlayfs and merge show what the
// image format means:
//
//   - A directory that the layer only names as a part of paths, its root too, gets the owner, mode, attributes and time
//     that it has below. One that is new stays 0755 root:root.
//   - Such a directory which is a symbolic link below is no directory: what the layer has in it goes where the link leads,
//     within the image's root. A link that leads to no directory is replaced, as by a directory that the layer lists.
//   - Whiteouts of what is not below are removed, and directories that only they made: overlayfs lists a whiteout in a
//     directory that no other layer has.
//   - A mark on the root that hides all below becomes whiteouts: overlayfs takes no notice of it there.
//
// dependent is what unpack said. The layer is only good above these layers afterwards.
func settle(ctx context.Context, dir string, below []string, dependent bool) error {
	s := &settler{ctx: ctx}
	defer s.close()
	var err error
	if s.own, err = openTree(dir); err != nil {
		return err
	}
	for _, dir := range below {
		t, err := openTree(dir)
		if err != nil {
			return err
		}
		s.below = append(s.below, t)
	}
	for range maxFollowed {
		if _, err := s.directory("", s.below, dependent); err != nil || len(s.moves) == 0 {
			return err
		}
		moves := s.moves
		s.moves = nil
		for _, m := range moves {
			if err := s.move(m); err != nil {
				return err
			}
		}
	}
	return fault.Authorf("a layer has paths that lead through more than %d symbolic links of the layers below", maxFollowed)
}

type settler struct {
	ctx   context.Context
	own   *tree
	below []*tree // upper-most first
	moves []move
}

// move is what the layer has in a directory that is a symbolic link below.
type move struct{ from, to string }

func (s *settler) close() {
	for _, t := range append(s.below, s.own) {
		if t != nil {
			t.close()
		}
	}
}

// directory settles a directory of the layer, which these layers have, too, and all in it if deep. It reports whether
// nothing is left of one that is not below.
func (s *settler) directory(name string, layers []*tree, deep bool) (vanished bool, err error) {
	d, err := s.open(name, layers)
	if err != nil {
		return false, err
	}
	defer d.close()
	if name == "" && d.opaque {
		if err := d.hideAll(); err != nil {
			return false, err
		}
	}
	if !deep {
		return false, d.finish()
	}
	children, err := d.children()
	if err != nil {
		return false, err
	}
	d.closeBelow() // neither depth nor width uses up descriptors
	for _, c := range children {
		if err := s.child(d, c); err != nil {
			return false, err
		}
	}
	return d.vanishes(), d.finish()
}

// child settles a directory in another one, or leaves it to be moved.
func (s *settler) child(d *settled, c settledChild) error {
	name := path.Join(d.name, c.name)
	if c.link != "" {
		to, err := s.resolve(d.name, c.link)
		if err != nil {
			return err
		}
		if to != nil {
			s.moves = append(s.moves, move{name, *to})
			return nil
		}
	}
	vanished, err := s.directory(name, c.layers, true)
	if err != nil || !vanished {
		return err
	}
	return d.remove(c.name, unix.AT_REMOVEDIR)
}

// settled is a directory that is being settled.
type settled struct {
	name    string
	fd      int
	below   []int // the same directory in layers, upper-most first
	layers  []*tree
	opaque  bool
	implied bool
	isNew   bool // no layer below has it
	entries int
	times   unix.Timespec // of modification, at the end
}

func (s *settler) open(name string, layers []*tree) (_ *settled, err error) {
	d := &settled{name: name}
	if d.fd, err = s.own.walk(name, false); err != nil {
		return nil, reading("opening", name, err)
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.below, d.layers, err = openAll(s.ctx, name, layers); err != nil {
		return nil, err
	}
	d.isNew = len(d.below) == 0
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, reading("looking at", name, err)
	}
	d.times, d.opaque = st.Mtim, isOpaque(d.fd)
	if d.implied, err = unmarkImplied(d.fd); err != nil || !d.implied || d.isNew {
		return d, err
	}
	if err := unix.Fstat(d.below[0], &st); err != nil {
		return nil, reading("looking at", name, err)
	}
	d.times = st.Mtim
	return d, changing("giving attributes to", name, copyAttributes(d.fd, d.below[0], &st))
}

func (d *settled) close() {
	d.closeBelow()
	_ = unix.Close(d.fd)
}

func (d *settled) closeBelow() {
	closeAll(d.below)
	d.below = nil
}

// hideAll makes whiteouts of the mark on the root.
func (d *settled) hideAll() error {
	shown, err := list(d.name, d.below)
	if err != nil {
		return err
	}
	for base, c := range shown {
		if c.hidden {
			continue
		}
		kind, err := statKind(d.fd, base)
		if err != nil {
			return err
		}
		switch kind {
		case kindNone:
			err = unix.Mknodat(d.fd, base, unix.S_IFCHR, 0)
		case kindDir:
			err = replaceBelow(d.fd, base)
		}
		if err != nil {
			return changing("hiding", base, err)
		}
	}
	d.opaque = false
	return changing("unmarking", d.name, unix.Fremovexattr(d.fd, opaqueAttribute))
}

// replaceBelow makes a directory of the layer another one than that below.
func replaceBelow(parent int, base string) error {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unmarkImplied(fd); err != nil {
		return err
	}
	return setOpaque(fd)
}

// settledChild is a directory in a directory of the layer: link is where the symbolic link leads that is in its place
// below, layers are those that have it, too.
type settledChild struct {
	name   string
	link   string
	layers []*tree
}

// children removes the whiteouts in a directory that hide nothing and returns the directories in it.
func (d *settled) children() (dirs []settledChild, err error) {
	names, err := namesIn(d.fd)
	if err != nil {
		return nil, reading("listing", d.name, err)
	}
	d.entries = len(names)
	below := d.below
	if d.opaque {
		below = nil
	}
	for _, base := range names {
		kind, err := statKind(d.fd, base)
		if err != nil {
			return nil, err
		}
		if kind != kindDir && kind != kindWhiteout {
			continue
		}
		has, link, err := firstIn(below, base)
		if err != nil {
			return nil, err
		}
		if kind == kindWhiteout {
			if has == kindNone || has == kindWhiteout {
				err = d.remove(base, 0)
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		c := settledChild{name: base}
		if has == kindDir {
			if c.layers, err = sameDirs(below, d.layers, base); err != nil {
				return nil, err
			}
		}
		if has == kindLink && isImpliedAt(d.fd, base) {
			c.link = link
		}
		dirs = append(dirs, c)
	}
	return dirs, nil
}

// firstIn tells what the upper-most of some directories that has a name has under it.
func firstIn(fds []int, base string) (kind, string, error) {
	for _, fd := range fds {
		if kind, link, err := lookIn(fd, base); err != nil || kind != kindNone {
			return kind, link, err
		}
	}
	return kindNone, "", nil
}

// sameDirs returns the layers whose directories of a name are merged.
func sameDirs(fds []int, layers []*tree, base string) (same []*tree, err error) {
	for i, fd := range fds {
		switch kind, err := statKind(fd, base); {
		case err != nil:
			return nil, err
		case kind == kindDir:
			same = append(same, layers[i])
		case kind != kindNone:
			return same, nil
		}
	}
	return same, nil
}

func isImpliedAt(parent int, base string) bool {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return isImplied(fd)
}

func (d *settled) remove(base string, flags int) error {
	d.entries--
	return changing("removing", path.Join(d.name, base), unix.Unlinkat(d.fd, base, flags))
}

// vanishes tells whether a directory is there only for what hid nothing.
func (d *settled) vanishes() bool { return d.implied && d.isNew && d.entries == 0 && d.name != "" }

// finish sets the time last: what was removed from the directory changed it.
func (d *settled) finish() error {
	return changing("setting the time of", d.name, setTimeOf(d.fd, d.times))
}

func setTimeOf(fd int, when unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{when, when}, 0)
}

// resolve returns the directory to which a symbolic link leads that a directory has below the layer; nil if it leads to
// none. What it leads to need not be there.
func (s *settler) resolve(dir, link string) (*string, error) {
	if !path.IsAbs(link) {
		link = dir + "/" + link
	}
	to, err := resolve(link, s.look)
	if fault.ClassOf(err) == fault.Author {
		return nil, nil // a loop
	}
	if err != nil {
		return nil, err
	}
	for at := to; at != "" && at != "."; at = path.Dir(at) {
		kind, _, err := s.look(path.Dir(at), path.Base(at))
		if err != nil || kind != kindNone && kind != kindDir {
			return nil, err
		}
	}
	return &to, nil
}

// look tells what the image has under a name in a directory, this layer and those below taken together.
func (s *settler) look(dir, base string) (kind, string, error) {
	fds, err := s.all(dir)
	defer func() { closeAll(fds) }()
	if err != nil {
		return kindNone, "", err
	}
	for i, fd := range fds {
		kind, link, err := lookIn(fd, base)
		if err != nil || kind == kindNone {
			if err != nil {
				return kindNone, "", err
			}
			continue
		}
		if kind == kindWhiteout {
			return kindNone, "", nil
		}
		if kind == kindDir && isImpliedAt(fd, base) {
			if has, link, err := firstIn(fds[i+1:], base); err != nil || has == kindLink {
				return has, link, err
			}
		}
		return kind, link, nil
	}
	return kindNone, "", nil
}

// all opens a directory in this layer and those below, as far as they show it.
func (s *settler) all(dir string) ([]int, error) {
	layers := append([]*tree{s.own}, s.below...)
	fds, layers, err := openAll(s.ctx, "", layers)
	at := ""
	for base := range strings.SplitSeq(dir, "/") {
		if base == "" || base == "." || err != nil {
			continue
		}
		same, errSame := sameDirs(fds, layers, base)
		closeAll(fds)
		fds = nil
		if at = path.Join(at, base); errSame != nil {
			return nil, errSame
		}
		fds, layers, err = openAll(s.ctx, at, same)
	}
	return fds, err
}

// changing classifies an error of the host in changing what was unpacked.
func changing(doing, name string, err error) error {
	if err == nil {
		return nil
	}
	return fault.Systemf("%s %.200q of the unpacked layer: %w", doing, fmt.Sprint("/", name), err)
}
