package layer

import (
	"archive/tar"
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/tree"
)

// setAttributes sets owner, mode and extended attributes, in the order in which none undoes another: chown
// clears set-user-id bits and capabilities.
func (u *unpacker) setAttributes(fd int, header *tar.Header) error {
	if err := unix.Fchown(fd, header.Uid, header.Gid); err != nil {
		return tree.Classify("changing the owner of", header.Name, err)
	}
	if err := unix.Fchmod(fd, permissions(header)); err != nil {
		return tree.Classify("changing the mode of", header.Name, err)
	}
	room := maxAttributes
	for _, key := range slices.Sorted(maps.Keys(header.PAXRecords)) { // security.capability before user.*
		attribute, found := strings.CutPrefix(key, "SCHILY.xattr.")
		if !found || !tree.KeptAttribute(attribute) {
			continue
		}
		set, err := setAttribute(fd, attribute, header.PAXRecords[key], &room)
		if err != nil {
			return tree.Classify("setting "+attribute+" of", header.Name, err)
		}
		if !set {
			u.omitted.Add(omittedAttribute, "/"+strings.TrimPrefix(header.Name, "/")+": "+attribute)
		}
	}
	return nil
}

// maxAttributes bounds what the extended attributes of one file take, in bytes. ext4 has 4060 bytes for them in a
// block; in a scratch overlayfs needs some of it for its own.
const maxAttributes = 3584

// setAttribute sets an extended attribute if there is room for it, and reports whether it did. No program relies on
// user.*, so it is no failure when a file system has none, or less room for them than there should be.
func setAttribute(fd int, name, value string, room *int) (set bool, err error) {
	optional := strings.HasPrefix(name, "user.")
	takes := attributeSize(name, value)
	if optional && takes > *room {
		return false, nil
	}
	err = unix.Fsetxattr(fd, name, []byte(value), 0)
	switch {
	case err == nil:
		*room -= takes
		return true, nil
	case optional && (errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EINVAL)):
		return false, nil
	case optional && errors.Is(err, unix.ENOSPC) && hasSpace(fd):
		return false, nil
	default:
		return false, err
	}
}

// attributeSize is what an attribute takes in ext4: an entry of 16 bytes and the name, and the value, both rounded up.
func attributeSize(name, value string) int {
	return 16 + (len(name)+3)&^3 + (len(value)+3)&^3
}

// hasSpace reports whether a file system has room: if so, ENOSPC meant a full inode.
func hasSpace(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Bavail > 0 && (st.Files == 0 || st.Ffree > 0)
}

func permissions(header *tar.Header) uint32 { return uint32(header.Mode) & 0o7777 }
