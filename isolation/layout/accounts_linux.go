package layout

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// The files of an image by which users and groups are looked up: passwd(5) and group(5).
const (
	PasswdFile = "/etc/passwd"
	GroupFile  = "/etc/group"
)

// MaxAccounts bounds a passwd or group file, in bytes. Those of distributions have a few KiB.
const MaxAccounts = 4 << 20

// OpenAccounts opens a passwd or group file of the root file system whose directory is rootfs, a descriptor. It returns
// nil when there is none. What is something else than a regular file of this root (a FIFO, a device, a link into /proc, a
// link to nothing) or larger than MaxAccounts is the author's failure; nothing but a regular file is ever opened.
func OpenAccounts(rootfs int, path string) (*os.File, error) {
	found, err := OpenIn(rootfs, path, unix.O_PATH, unix.RESOLVE_NO_XDEV)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, danglingAccounts(rootfs, path)
	}
	if err != nil {
		return nil, accountsError(path, fmt.Errorf("cannot be opened as a file of the image: %w", err))
	}
	err = checkAccounts(found)
	_ = unix.Close(found)
	if err != nil {
		return nil, accountsError(path, err)
	}
	fd, err := OpenIn(rootfs, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_NO_XDEV)
	if err != nil {
		return nil, accountsError(path, fmt.Errorf("cannot be opened as a file of the image: %w", err))
	}
	if err := checkAccounts(fd); err != nil { // a job may have replaced it
		_ = unix.Close(fd)
		return nil, accountsError(path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// danglingAccounts refuses a link that leads nowhere, and not a file that is missing: where the link leads later, once
// more is mounted, nobody has checked.
func danglingAccounts(rootfs int, path string) error {
	fd, err := OpenIn(rootfs, path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil //nolint:nilerr // there is none
	}
	_ = unix.Close(fd)
	return accountsError(path, errors.New("is a link to nothing in the image"))
}

// checkAccounts says what is wrong with an open passwd or group file.
func checkAccounts(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a regular file")
	case st.Size > MaxAccounts:
		return fmt.Errorf("has %d bytes, more than the %d that are allowed", st.Size, MaxAccounts)
	default:
		return nil
	}
}

func accountsError(path string, err error) error {
	return fault.WithRemedy(fault.Authorf("the image's %s %w", path, err), "make it a regular file of the image, or leave it out")
}

// checkImageAccounts refuses an image whose passwd or group file is none, before an OCI runtime reads it: a FIFO would
// hold it up.
func checkImageAccounts(rootfs string) error {
	fd, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the image's root: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, path := range []string{PasswdFile, GroupFile} {
		file, err := OpenAccounts(fd, path)
		if err != nil {
			return err
		}
		if file != nil {
			_ = file.Close()
		}
	}
	return nil
}
