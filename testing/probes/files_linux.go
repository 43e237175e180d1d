package probes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// exists succeeds when there is such a file.
func exists(path string) error {
	_, err := os.Lstat(path)
	return err
}

// chmod succeeds when the mode can be set, to what it is.
func chmod(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Chmod(path, info.Mode().Perm())
}

// replaceable succeeds when the file can be written, or another put in its place.
func replaceable(path string) error {
	written := writable(path)
	if written == nil {
		return nil
	}
	aside := path + ".aside"
	moved := os.Rename(path, aside)
	if moved == nil {
		return os.Rename(aside, path)
	}
	return errors.Join(written, moved)
}

// cgroupFile tries to open a file of any cgroup for writing.
func cgroupFile(name string) func(Targets) (string, error) {
	return func(targets Targets) (string, error) {
		var candidates []string
		for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/", "/host/sys/fs/cgroup/*/"} {
			found, err := filepath.Glob(pattern + name)
			if err != nil {
				return "", err
			}
			candidates = append(candidates, found...)
		}
		if len(candidates) == 0 {
			return "", fmt.Errorf("no %s in any cgroup", name)
		}
		return paths(writable, candidates...)(targets)
	}
}

// harmless are the character devices that every process may have, by number; see the kernel's
// Documentation/admin-guide/devices.txt.
var harmless = map[uint64]bool{
	unix.Mkdev(1, 3): true, unix.Mkdev(1, 5): true, unix.Mkdev(1, 7): true, unix.Mkdev(1, 8): true, unix.Mkdev(1, 9): true,
	unix.Mkdev(5, 0): true, unix.Mkdev(5, 1): true, unix.Mkdev(5, 2): true,
}

// deviceNodes looks for a device node that is not harmless, outside the host's own root of the control container.
// It opens none: opening alone starts a watchdog and rewinds a tape.
func deviceNodes(Targets) (string, error) {
	var reached string
	nodes := 0
	err := filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be listed cannot be opened either
		}
		if path == "/proc" || path == "/sys" || path == "/host" {
			return fs.SkipDir
		}
		var stat unix.Stat_t
		if entry.Type()&fs.ModeDevice == 0 || unix.Stat(path, &stat) != nil {
			return nil
		}
		nodes++
		pty := unix.Major(stat.Rdev) >= 136 && unix.Major(stat.Rdev) <= 143
		if stat.Mode&unix.S_IFMT == unix.S_IFCHR && (harmless[stat.Rdev] || pty) {
			return nil
		}
		reached = path
		return fs.SkipAll
	})
	if err == nil && reached == "" {
		err = fmt.Errorf("%d device nodes, all harmless", nodes)
	}
	return reached, err
}

// makeBlockDevice makes a node for the first disk there is and reads it.
func makeBlockDevice() error {
	numbers, err := filepath.Glob("/sys/dev/block/*:*")
	if err != nil {
		return err
	}
	if len(numbers) == 0 { // none to be seen; then a device number that is some disk on most hosts
		numbers = []string{"8:0"}
	}
	var failed error
	for _, number := range numbers {
		var major, minor uint32
		if _, err := fmt.Sscanf(filepath.Base(number), "%d:%d", &major, &minor); err != nil {
			return err
		}
		if failed = makeDevice(unix.S_IFBLK, unix.Mkdev(major, minor)); failed == nil {
			return nil
		}
	}
	return failed
}

func makeMemoryDevice() error { return makeDevice(unix.S_IFCHR, unix.Mkdev(1, 1)) }

// makeDevice makes a node and opens it for reading.
func makeDevice(kind uint32, device uint64) error {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("airlock-probe-%d", os.Getpid()))
	if err := unix.Mknod(path, kind|0o600, int(device)); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	defer func() { _ = os.Remove(path) }()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return unix.Close(fd)
}

// openByHandle opens the root by its handle, as the escape named "shocker" did with the host's.
func openByHandle() error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/sys", 0)
	if err != nil {
		handle = unix.NewFileHandle(1, make([]byte, 8)) // the rights are checked before the handle
	}
	dir, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
	if err == nil {
		return unix.Close(fd)
	}
	return unlessPrivileged(err, unix.ESTALE, unix.EINVAL)
}

// chrootOut leaves a chroot as the manual page warns, and succeeds when that ends outside the root it began in.
func chrootOut() error {
	var before, after unix.Stat_t
	if err := unix.Stat("/", &before); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "airlock-probe-")
	if err != nil {
		return err
	}
	cwd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Chroot(dir), unix.Fchdir(cwd)); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chroot("."), unix.Stat("/", &after)); err != nil {
		return err
	}
	if before.Dev == after.Dev && before.Ino == after.Ino {
		return errors.New("it ends in the same root")
	}
	return nil
}

// unlessPrivileged turns errors that only a caller with the rights ever sees into success.
func unlessPrivileged(err error, privileged ...error) error {
	for _, p := range privileged {
		if errors.Is(err, p) {
			return nil
		}
	}
	return err
}
