package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// imageMountPoints are where something is mounted in the image's root.
var imageMountPoints = []string{
	"proc", "sys", "dev",
	strings.TrimPrefix(isolation.Dir, "/"),
	strings.TrimPrefix(isolation.BuildsDir, "/"),
	strings.TrimPrefix(isolation.CacheDir, "/"),
}

// PrepareImage makes the mount points in the image's root, mounted at rootfs, and writes its names files, as NamesFiles
// returns them. What an image put there instead, a symbolic link say, is replaced in the scratch: a mount must never follow an image's link. The
// names files are the job's own copies, so that, unlike with Docker, `sed -i /etc/hosts` works in a job.
func PrepareImage(rootfs string, files map[string]string) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, name := range imageMountPoints {
		if err := ensureDir(root, name, 0o755); err != nil {
			return fault.Authorf("preparing /%s in the image: %w", name, err)
		}
	}
	if err := ensureDir(root, "tmp", fs.ModeSticky|0o777); err != nil {
		return fault.Authorf("preparing /tmp in the image: %w", err)
	}
	// Programs expect /run everywhere. What an image has there, a link to another of its directories say, stays.
	if _, err := root.Lstat("run"); errors.Is(err, fs.ErrNotExist) {
		if err := ensureDir(root, "run", 0o755); err != nil {
			return fault.Authorf("preparing /run in the image: %w", err)
		}
	}
	for name, content := range files {
		if err := ReplaceFile(rootfs, name, content, 0o644); err != nil {
			return err
		}
	}
	return checkImageAccounts(rootfs)
}

// ReplaceFile makes name, a path in the image's root that is mounted at rootfs, a regular file with the content,
// whatever it was; a new one has the mode. Its directory may be a symbolic link, which leads where it leads a process of
// the sandbox; one that leads to no directory is replaced in the scratch.
func ReplaceFile(rootfs, name, content string, mode fs.FileMode) error {
	err := func() error {
		dir, err := openDir(rootfs, path.Dir(name))
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		return replaceFile(dir, path.Base(name), content, mode)
	}()
	if err != nil {
		return fault.Authorf("writing /%s in the image: %w", name, err)
	}
	return nil
}

// openDir opens a directory of the root, made when it is missing. os.Root itself refuses absolute links.
func openDir(rootfs, name string) (*os.Root, error) {
	rootFD, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(rootFD) }()
	fd, err := OpenIn(rootFD, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		root, err := os.OpenRoot(rootfs)
		if err != nil {
			return nil, err
		}
		defer func() { _ = root.Close() }()
		if err := ensureDir(root, name, 0o755); err != nil {
			return nil, err
		}
		return root.OpenRoot(name)
	}
	defer func() { _ = unix.Close(fd) }()
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// ensureDir makes name a directory of its own right: not a link to one. An existing one keeps its mode.
func ensureDir(root *os.Root, name string, mode fs.FileMode) error {
	info, err := root.Lstat(name)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = root.Remove(name)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o700); err != nil {
		return err
	}
	return root.Chmod(name, mode) // whatever the umask
}

func replaceFile(root *os.Root, name, content string, mode fs.FileMode) error {
	info, err := root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return root.WriteFile(name, []byte(content), mode)
}

// MakeDirs makes directories of exactly this mode; those that exist get it.
func MakeDirs(mode fs.FileMode, dirs ...string) error {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("preparing the scratch: %w", err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			return fmt.Errorf("preparing the scratch: %w", err)
		}
	}
	return nil
}
