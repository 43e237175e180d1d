package layer

import (
	"crypto/rand"
	"errors"
	"path"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
)

// move puts what the layer has in one directory into another one, which is made when it is missing. The times of
// directories that the tar lists stay.
func (s *settler) move(m move) error {
	times, err := s.timesOf(path.Dir(m.from), m.to)
	if err != nil {
		return err
	}
	to, err := s.own.Walk(m.to, true)
	if errors.Is(err, tree.ErrThroughLink) {
		return nil // an earlier move made a link there: the next pass follows it
	}
	if err != nil {
		return err
	}
	_ = unix.Close(to)
	// Aside first: the one may lie in the other.
	aside := "moving-" + rand.Text()
	parent, err := s.own.Walk(path.Dir(m.from), false)
	if err != nil {
		return tree.NotThere(err) // an earlier move replaced it
	}
	if impliedAt(parent, path.Base(m.from)) == "" {
		return changing("closing", m.from, unix.Close(parent))
	}
	err = unix.Renameat(parent, path.Base(m.from), s.own.FD, aside)
	_ = unix.Close(parent)
	if err != nil {
		return changing("moving", m.from, err)
	}
	if err := s.mergeInto(aside, m.to); err != nil {
		return err
	}
	for name, when := range times {
		fd, err := s.own.Walk(name, false)
		if err != nil {
			continue // it lay in the one that was moved
		}
		err = setTimeOf(fd, when)
		_ = unix.Close(fd)
		if err != nil {
			return changing("setting the time of", name, err)
		}
	}
	return nil
}

// timesOf returns the modification times of the directories that the layer has on the way to some, these included.
func (s *settler) timesOf(names ...string) (map[string]unix.Timespec, error) {
	times := map[string]unix.Timespec{}
	for _, name := range names {
		for ; ; name = path.Dir(name) {
			if fd, err := s.own.Walk(name, false); err == nil {
				var st unix.Stat_t
				err = unix.Fstat(fd, &st)
				_ = unix.Close(fd)
				if err != nil {
					return nil, changing("looking at", name, err)
				}
				times[name] = st.Mtim
			}
			if name == "" || name == "." {
				break
			}
		}
	}
	return times, nil
}

// mergeInto moves what is in a directory of the layer into another one, and removes the first. What it replaces is gone, as
// if the second had been unpacked later.
func (s *settler) mergeInto(from, to string) error {
	src, err := s.own.Walk(from, false)
	if err != nil {
		return changing("opening", from, err)
	}
	defer func() { _ = unix.Close(src) }()
	dst, err := s.own.Walk(to, false)
	if err != nil {
		return changing("opening", to, err)
	}
	defer func() { _ = unix.Close(dst) }()
	names, err := tree.NamesIn(src)
	if err != nil {
		return changing("listing", from, err)
	}
	var both []string
	for _, base := range names {
		isBoth, err := s.moveOne(src, dst, to, base)
		if err != nil {
			return changing("moving", path.Join(from, base), err)
		}
		if isBoth {
			both = append(both, base)
		}
	}
	if tree.IsOpaque(src) {
		if err := tree.SetOpaque(dst); err != nil {
			return err
		}
	}
	for _, base := range both {
		if err := s.mergeDirectories(path.Join(from, base), path.Join(to, base)); err != nil {
			return err
		}
	}
	return changing("removing", from, s.own.Root.Remove(from))
}

// moveOne moves one name between directories, unless both have a directory of it.
func (s *settler) moveOne(src, dst int, to, base string) (both bool, err error) {
	is, err := tree.StatKind(src, base)
	if err != nil {
		return false, err
	}
	was, err := tree.StatKind(dst, base)
	if err != nil {
		return false, err
	}
	switch {
	case is == tree.KindDir && was == tree.KindDir:
		return true, nil
	case is == tree.KindWhiteout && was != tree.KindNone: // it never hides its own layer
		if was == tree.KindDir {
			err = replaceLowerAt(dst, base)
		}
		if err == nil {
			err = unix.Unlinkat(src, base, 0)
		}
		return false, err
	case is == tree.KindDir && was == tree.KindWhiteout:
		err = replaceLowerAt(src, base)
	}
	if err == nil && was != tree.KindNone {
		err = s.own.Root.RemoveAll(path.Join(to, base))
	}
	if err == nil {
		err = unix.Renameat(src, base, dst, base)
	}
	return false, err
}

// mergeDirectories is mergeInto for directories that both are the layer's: the one that the tar lists says what they are
// like.
func (s *settler) mergeDirectories(from, to string) error {
	src, err := s.own.Walk(from, false)
	if err != nil {
		return changing("opening", from, err)
	}
	defer unix.Close(src)
	dst, err := s.own.Walk(to, false)
	if err != nil {
		return changing("opening", to, err)
	}
	defer unix.Close(dst)
	listed := src
	var st unix.Stat_t
	if tree.ImpliedAs(src) != "" {
		listed = dst
	}
	if err := unix.Fstat(listed, &st); err != nil {
		return changing("looking at", from, err)
	}
	if listed == src {
		if err := tree.CopyAttributes(dst, src, &st); err != nil {
			return changing("giving attributes to", to, err)
		}
		if err := tree.UnmarkImplied(dst); err != nil {
			return err
		}
	}
	if err := s.mergeInto(from, to); err != nil {
		return err
	}
	return changing("setting the time of", to, setTimeOf(dst, st.Mtim))
}
