package cache

import (
	"context"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
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
	if dependent {
		if err := s.moveAll(); err != nil {
			return err
		}
	}
	_, err = s.directory("", s.below, dependent)
	return err
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

// moveAll puts everything where it belongs. What was moved may lie beyond another link there.
func (s *settler) moveAll() error {
	for range maxFollowed {
		s.moves = nil
		if err := s.findMoves("", s.below); err != nil || len(s.moves) == 0 {
			return err
		}
		for _, m := range s.moves {
			if err := s.move(m); err != nil {
				return err
			}
		}
	}
	return fault.Authorf("a layer has paths that lead through more than %d symbolic links of the layers below", maxFollowed)
}

// findMoves looks for directories of the layer that are symbolic links in these layers below.
func (s *settler) findMoves(name string, layers []*tree) error {
	d, err := s.open(name, layers)
	if err != nil {
		return err
	}
	defer d.close()
	children, _, err := d.children()
	if err != nil {
		return err
	}
	d.close() // neither depth nor width uses up descriptors
	for _, c := range children {
		if c.link == "" {
			if err := s.findMoves(path.Join(name, c.name), c.layers); err != nil {
				return err
			}
			continue
		}
		to, err := s.resolve(name, c.link)
		if err != nil {
			return err
		}
		if to != nil {
			s.moves = append(s.moves, move{path.Join(name, c.name), *to})
		}
	}
	return nil
}

// directory settles a directory of the layer, which these layers have, too, and all in it if deep. It reports whether
// nothing is left of one that is not below.
func (s *settler) directory(name string, layers []*tree, deep bool) (vanished bool, err error) {
	d, err := s.open(name, layers)
	if err != nil {
		return false, err
	}
	defer d.close()
	if err := d.adopt(); err != nil {
		return false, err
	}
	if name == "" && d.opaque {
		if err := d.hideAll(); err != nil {
			return false, err
		}
	}
	if deep {
		children, idle, err := d.children()
		if err != nil {
			return false, err
		}
		for _, base := range idle {
			if err := d.remove(base, 0); err != nil {
				return false, err
			}
		}
		if err := s.settleAll(d, children); err != nil {
			return false, err
		}
	}
	return d.vanishes(), d.finish()
}

// settleAll settles the directories in a directory and removes those of which nothing is left.
func (s *settler) settleAll(d *settled, children []settledChild) error {
	d.close() // neither depth nor width uses up descriptors
	var gone []settledChild
	for _, c := range children {
		vanished, err := s.directory(path.Join(d.name, c.name), c.layers, true)
		if err != nil {
			return err
		}
		if vanished {
			gone = append(gone, c)
		}
	}
	fd, err := s.own.walk(d.name, false)
	if err != nil {
		return reading("opening", d.name, err)
	}
	d.fd = fd
	for _, c := range gone {
		if err := d.remove(c.name, unix.AT_REMOVEDIR); err != nil {
			return err
		}
		if !c.replaces {
			continue
		}
		d.entries++
		if err := unix.Mknodat(d.fd, c.name, unix.S_IFCHR, 0); err != nil {
			return changing("whiting out", path.Join(d.name, c.name), err)
		}
	}
	return nil
}

// settled is a directory that is being settled.
type settled struct {
	name    string
	fd      int
	below   []int // the same directory in layers, upper-most first
	layers  []*tree
	opaque  bool
	implied bool
	isNew   bool // no layer below has it, or this one removes theirs
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
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, reading("looking at", name, err)
	}
	d.times, d.opaque = st.Mtim, isOpaque(d.fd)
	as := impliedAs(d.fd)
	d.implied, d.isNew = as != "", as == impliedNew || len(d.below) == 0
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
	if err := unmarkImplied(d.fd); err != nil || !d.implied || d.isNew {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.below[0], &st); err != nil {
		return reading("looking at", d.name, err)
	}
	d.times = st.Mtim
	return changing("giving attributes to", d.name, copyAttributes(d.fd, d.below[0], &st))
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
			err = replaceLowerAt(d.fd, base)
		}
		if err != nil {
			return changing("hiding", base, err)
		}
	}
	d.opaque = false
	return changing("unmarking", d.name, unix.Fremovexattr(d.fd, opaqueAttribute))
}

// replaceLowerAt is replaceLower for a name in a directory.
func replaceLowerAt(parent int, base string) error {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return replaceLower(fd)
}

// settledChild is a directory in a directory of the layer.
type settledChild struct {
	name     string
	link     string  // where the symbolic link leads that is in its place below
	layers   []*tree // those that have the directory, too
	replaces bool    // it is there because the layer removes what is below
}

// children returns the directories in a directory, and the whiteouts that hide nothing.
func (d *settled) children() (dirs []settledChild, idle []string, err error) {
	names, err := namesIn(d.fd)
	if err != nil {
		return nil, nil, reading("listing", d.name, err)
	}
	d.entries = len(names)
	below := d.below
	if d.opaque {
		below = nil
	}
	for _, base := range names {
		kind, err := statKind(d.fd, base)
		if err != nil {
			return nil, nil, err
		}
		if kind != kindDir && kind != kindWhiteout {
			continue
		}
		has, link, err := firstIn(below, base)
		if err != nil {
			return nil, nil, err
		}
		hidden := has == kindNone || has == kindWhiteout
		if kind == kindWhiteout {
			if hidden {
				idle = append(idle, base)
			}
			continue
		}
		as := impliedAt(d.fd, base)
		c := settledChild{name: base, replaces: as == impliedNew && !hidden}
		if has == kindLink && as == impliedLower {
			c.link = link
		}
		if has == kindDir {
			if c.layers, err = sameDirs(below, d.layers, base); err != nil {
				return nil, nil, err
			}
		}
		dirs = append(dirs, c)
	}
	return dirs, idle, nil
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

func impliedAt(parent int, base string) string {
	fd, err := openDirAt(parent, base)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	return impliedAs(fd)
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
		if kind == kindDir && impliedAt(fd, base) == impliedLower {
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
