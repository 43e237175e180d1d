package tree

import (
	"errors"

	"golang.org/x/sys/unix"
)

// impliedMark is an extended attribute of directories that a layer only names as a part of paths, until settle has
// found out what they are like in the layers below.
const impliedMark = "trusted.airlock.implied"

// impliedMark's values.
const (
	ImpliedLower = "lower" // it is the directory of the layers below, if these have it
	ImpliedNew   = "new"   // it is another one, because the layer removes theirs
)

// makeImplied makes a directory that the tar names only as a part of paths. Where the layer removes what was there it is
// a new one, else the one of the layers below.
func makeImplied(parent int, component, dir string, overWhiteout bool) (int, error) {
	if overWhiteout {
		if err := unix.Unlinkat(parent, component, 0); err != nil {
			return 0, Classify("replacing", dir, err)
		}
	}
	if err := unix.Mkdirat(parent, component, 0o755); err != nil {
		return 0, Classify("making", dir, err)
	}
	fd, err := OpenDirAt(parent, component)
	if err != nil {
		return 0, Classify("opening", dir, err)
	}
	err = Classify("changing the owner of", dir, unix.Fchown(fd, 0, 0)) // a set-group-id parent hands its group down
	if err == nil {
		err = Classify("changing the mode of", dir, unix.Fchmod(fd, 0o755)) // whatever the umask
	}
	if err == nil {
		err = MarkImplied(fd, ImpliedLower)
	}
	if err == nil && overWhiteout {
		err = ReplaceLower(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// ReplaceLower makes a directory of the layer another one than that of the layers below.
func ReplaceLower(fd int) error {
	if ImpliedAs(fd) == ImpliedLower {
		if err := MarkImplied(fd, ImpliedNew); err != nil {
			return err
		}
	}
	return SetOpaque(fd)
}

// MarkImplied marks a directory as one that the layer only names as a part of paths.
func MarkImplied(fd int, as string) error {
	return Classify("marking", "a directory", unix.Fsetxattr(fd, impliedMark, []byte(as), 0))
}

// UnmarkImplied is for directories that the layer lists after all.
func UnmarkImplied(fd int) error {
	err := unix.Fremovexattr(fd, impliedMark)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return Classify("unmarking", "a directory", err)
}

// ImpliedAs returns a directory's mark; "" if the layer lists it.
func ImpliedAs(fd int) string {
	var value [8]byte
	n, err := unix.Fgetxattr(fd, impliedMark, value[:])
	if err != nil {
		return ""
	}
	return string(value[:n])
}

// OpaqueAttribute is overlayfs's mark of a directory that hides those below.
const OpaqueAttribute = "trusted.overlay.opaque"

// SetOpaque makes a directory hide those below.
func SetOpaque(fd int) error {
	return Classify("marking as opaque", "a directory", unix.Fsetxattr(fd, OpaqueAttribute, []byte("y"), 0))
}

// IsOpaque reports whether a directory hides those below.
func IsOpaque(fd int) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(fd, OpaqueAttribute, value[:])
	return err == nil && string(value[:n]) == "y"
}
