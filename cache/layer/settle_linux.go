package layer

import (
	"context"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
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
	if s.own, err = tree.Open(dir); err != nil {
		return err
	}
	for _, dir := range below {
		t, err := tree.Open(dir)
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
	own   *tree.Tree
	below []*tree.Tree // upper-most first
	moves []move
}

// move is what the layer has in a directory that is a symbolic link below.
type move struct{ from, to string }

func (s *settler) close() {
	for _, t := range append(s.below, s.own) {
		if t != nil {
			t.Close()
		}
	}
}

// moveAll puts everything where it belongs. What was moved may lie beyond another link there.
func (s *settler) moveAll() error {
	for range tree.MaxFollowed {
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
	return fault.Authorf("a layer has paths that lead through more than %d symbolic links of the layers below", tree.MaxFollowed)
}

// findMoves looks for directories of the layer that are symbolic links in these layers below.
func (s *settler) findMoves(name string, layers []*tree.Tree) error {
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
func (s *settler) directory(name string, layers []*tree.Tree, deep bool) (vanished bool, err error) {
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
	fd, err := s.own.Walk(d.name, false)
	if err != nil {
		return tree.Reading("opening", d.name, err)
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

// resolve returns the directory to which a symbolic link leads that a directory has below the layer; nil if it leads to
// none. What it leads to need not be there.
func (s *settler) resolve(dir, link string) (*string, error) {
	if !path.IsAbs(link) {
		link = dir + "/" + link
	}
	to, err := tree.Resolve(link, s.look)
	if fault.ClassOf(err) == fault.Author {
		return nil, nil // a loop
	}
	if err != nil {
		return nil, err
	}
	for at := to; at != "" && at != "."; at = path.Dir(at) {
		kind, _, err := s.look(path.Dir(at), path.Base(at))
		if err != nil || kind != tree.KindNone && kind != tree.KindDir {
			return nil, err
		}
	}
	return &to, nil
}

// look returns what the image has under a name in a directory, this layer and those below taken together.
func (s *settler) look(dir, base string) (tree.Kind, string, error) {
	fds, err := s.all(dir)
	defer func() { tree.CloseAll(fds) }()
	if err != nil {
		return tree.KindNone, "", err
	}
	for i, fd := range fds {
		kind, link, err := tree.LookIn(fd, base)
		if err != nil || kind == tree.KindNone {
			if err != nil {
				return tree.KindNone, "", err
			}
			continue
		}
		if kind == tree.KindWhiteout {
			return tree.KindNone, "", nil
		}
		if kind == tree.KindDir && impliedAt(fd, base) == tree.ImpliedLower {
			if has, link, err := firstIn(fds[i+1:], base); err != nil || has == tree.KindLink {
				return has, link, err
			}
		}
		return kind, link, nil
	}
	return tree.KindNone, "", nil
}

// all opens a directory in this layer and those below, as far as they show it.
func (s *settler) all(dir string) ([]int, error) {
	layers := append([]*tree.Tree{s.own}, s.below...)
	fds, layers, err := tree.OpenAll(s.ctx, "", layers)
	at := ""
	for base := range strings.SplitSeq(dir, "/") {
		if base == "" || base == "." || err != nil {
			continue
		}
		same, errSame := sameDirs(fds, layers, base)
		tree.CloseAll(fds)
		if at = path.Join(at, base); errSame != nil {
			return nil, errSame
		}
		fds, layers, err = tree.OpenAll(s.ctx, at, same)
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
