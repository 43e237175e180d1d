package tree

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyAttributes gives a directory the owner, mode and extended attributes of another one.
func CopyAttributes(to, from int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	attributes, err := AttributesOn(from)
	if err != nil {
		return err
	}
	for name, value := range attributes {
		if err := unix.Fsetxattr(to, name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// maxAttribute bounds an extended attribute's value, and the list of their names, in bytes; linux/limits.h.
const maxAttribute = 64 << 10

// AttributesOn returns the extended attributes of a file that unpacking keeps.
func AttributesOn(fd int) (map[string]string, error) {
	var few [1024]byte
	names := few[:]
	n, err := unix.Flistxattr(fd, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, maxAttribute)
		n, err = unix.Flistxattr(fd, names)
	}
	if err != nil {
		return nil, err
	}
	var found map[string]string
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" || !KeptAttribute(name) {
			continue
		}
		value := make([]byte, maxAttribute)
		size, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = string(value[:size])
	}
	return found, nil
}

// KeptAttribute leaves out what steers overlayfs or the host: trusted.*, user.overlay.*, labels of security
// modules.
func KeptAttribute(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}
