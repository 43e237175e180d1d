package tree

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Kind is what a name stands for.
type Kind int

// The kinds.
const (
	KindNone Kind = iota
	KindDir
	KindWhiteout
	KindLink
	KindFile // or anything else
)

// StatKind returns what a directory holds under a name.
func StatKind(parent int, base string) (Kind, error) {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return KindNone, nil
	case err != nil:
		return KindNone, Classify("looking at", base, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return KindDir, nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return KindWhiteout, nil
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return KindLink, nil
	default:
		return KindFile, nil
	}
}

// OpenDirAt opens a directory in a directory; a symbolic link is none.
func OpenDirAt(parent int, base string) (int, error) {
	return unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}
