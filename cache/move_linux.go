package cache

import (
	"crypto/rand"
	"errors"
	"path"

	"golang.org/x/sys/unix"
)

// move puts what the layer has in one directory into another one, which is made when it is missing. The times of
// directories that the tar lists stay.
func (s *settler) move(m move) error {
	times, err := s.timesOf(path.Dir(m.from), m.to)
	if err != nil {
		return err
	}
	to, err := s.own.walk(m.to, true)
	if errors.Is(err, errThroughLink) {
		return nil // an earlier move made a link there: the next pass follows it
	}
	if err != nil {
		return err
	}
	_ = unix.Close(to)
	// Aside first: the one may lie in the other.
	aside := "moving-" + rand.Text()
	parent, err := s.own.walk(path.Dir(m.from), false)
	if err != nil {
		return notThere(err) // an earlier move replaced it
	}
	if impliedAt(parent, path.Base(m.from)) == "" {
		return changing("closing", m.from, unix.Close(parent))
	}
	err = unix.Renameat(parent, path.Base(m.from), s.own.fd, aside)
	_ = unix.Close(parent)
	if err != nil {
		return changing("moving", m.from, err)
	}
	if err := s.mergeInto(aside, m.to); err != nil {
		return err
	}
	for name, when := range times {
		fd, err := s.own.walk(name, false)
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
			if fd, err := s.own.walk(name, false); err == nil {
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
	src, err := s.own.walk(from, false)
	if err != nil {
		return changing("opening", from, err)
	}
	defer func() { _ = unix.Close(src) }()
	dst, err := s.own.walk(to, false)
	if err != nil {
		return changing("opening", to, err)
	}
	defer func() { _ = unix.Close(dst) }()
	names, err := namesIn(src)
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
	if isOpaque(src) {
		if err := setOpaque(dst); err != nil {
			return err
		}
	}
	for _, base := range both {
		if err := s.mergeDirectories(path.Join(from, base), path.Join(to, base)); err != nil {
			return err
		}
	}
	return changing("removing", from, s.own.root.Remove(from))
}

// moveOne moves one name between directories, unless both have a directory of it.
func (s *settler) moveOne(src, dst int, to, base string) (both bool, err error) {
	is, err := statKind(src, base)
	if err != nil {
		return false, err
	}
	was, err := statKind(dst, base)
	if err != nil {
		return false, err
	}
	switch {
	case is == kindDir && was == kindDir:
		return true, nil
	case is == kindWhiteout && was != kindNone: // it never hides its own layer
		if was == kindDir {
			err = replaceLowerAt(dst, base)
		}
		if err == nil {
			err = unix.Unlinkat(src, base, 0)
		}
		return false, err
	case is == kindDir && was == kindWhiteout:
		err = replaceLowerAt(src, base)
	}
	if err == nil && was != kindNone {
		err = s.own.root.RemoveAll(path.Join(to, base))
	}
	if err == nil {
		err = unix.Renameat(src, base, dst, base)
	}
	return false, err
}

// mergeDirectories is mergeInto for directories that both are the layer's: the one that the tar lists says what they are
// like.
func (s *settler) mergeDirectories(from, to string) error {
	src, err := s.own.walk(from, false)
	if err != nil {
		return changing("opening", from, err)
	}
	defer unix.Close(src)
	dst, err := s.own.walk(to, false)
	if err != nil {
		return changing("opening", to, err)
	}
	defer unix.Close(dst)
	listed := src
	var st unix.Stat_t
	if impliedAs(src) != "" {
		listed = dst
	}
	if err := unix.Fstat(listed, &st); err != nil {
		return changing("looking at", from, err)
	}
	if listed == src {
		if err := copyAttributes(dst, src, &st); err != nil {
			return changing("giving attributes to", to, err)
		}
		if err := unmarkImplied(dst); err != nil {
			return err
		}
	}
	if err := s.mergeInto(from, to); err != nil {
		return err
	}
	return changing("setting the time of", to, setTimeOf(dst, st.Mtim))
}
