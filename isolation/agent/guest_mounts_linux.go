package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// mountFlags are mount(8)'s names of flags; all other options are the file system's own.
var mountFlags = map[string]uintptr{
	"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "ro": unix.MS_RDONLY,
	"strictatime": unix.MS_STRICTATIME, "bind": unix.MS_BIND,
	"private": 0, // a guest has one mount namespace
}

// mountGuest does what an OCI runtime does with one mount of a container, in the root at dir.
func mountGuest(dir string, m layout.Mount) error {
	flags, data := uintptr(0), []string{}
	for _, option := range m.Options {
		if size, ok := strings.CutPrefix(option, "size="); ok {
			option = "size=" + boundSize(size)
		}
		if flag, ok := mountFlags[option]; ok {
			flags |= flag
		} else {
			data = append(data, option)
		}
	}
	target := filepath.Join(dir, m.Destination)
	if err := makeMountPoint(target, m.Destination == isolation.AgentPath); err != nil {
		return fmt.Errorf("mounting %s: %w", m.Destination, err)
	}
	kind := m.Type
	if kind == "cgroup" {
		kind = "cgroup2"
	}
	err := unix.Mount(m.Source, target, kind, flags, strings.Join(data, ","))
	if err == nil && flags&unix.MS_BIND != 0 { // binding alone takes no other flags
		err = unix.Mount("", target, "", flags|unix.MS_REMOUNT, "")
	}
	if err != nil {
		return fmt.Errorf("mounting %s: %w", m.Destination, err)
	}
	if m.Destination == "/dev" {
		return makeDevices(target)
	}
	return nil
}

// boundSize bounds a tmpfs's size in mebibytes, "64m", to a sixteenth of the machine's memory. What lies in one belongs
// to no process, so the kernel cannot free it by killing; all of them together must leave enough to go on.
func boundSize(size string) string {
	const most = 16
	var info unix.Sysinfo_t
	var mebibytes uint64
	if _, err := fmt.Sscanf(size, "%dm", &mebibytes); err != nil || unix.Sysinfo(&info) != nil {
		return size
	}
	return fmt.Sprintf("%dm", min(mebibytes, info.Totalram*uint64(info.Unit)/most>>20))
}

// makeMountPoint makes what is missing in one of our own mounts; those in the image's root exist, and are no links.
func makeMountPoint(path string, file bool) error {
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if file {
		return os.WriteFile(path, nil, 0o644)
	}
	return os.Mkdir(path, 0o755)
}

// makeDevices makes what the OCI runtime specification promises in /dev.
func makeDevices(dir string) error {
	return errors.Join(
		layout.MakeDevices(dir),
		os.Symlink("/proc/kcore", filepath.Join(dir, "core")),
		os.Symlink("pts/ptmx", filepath.Join(dir, "ptmx")))
}

// cover hides the masked paths of the image's root and makes others read-only; those that this kernel does not have
// need nothing.
func cover(root string) error {
	for _, path := range layout.MaskedPaths {
		target := root + path
		info, err := os.Stat(target)
		if err != nil {
			continue
		}
		if info.IsDir() {
			err = unix.Mount("tmpfs", target, "tmpfs", unix.MS_RDONLY, "")
		} else {
			err = unix.Mount(root+"/dev/null", target, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("masking %s: %w", path, err)
		}
	}
	for _, path := range layout.ReadonlyPaths {
		target := root + path
		if _, err := os.Stat(target); err != nil {
			continue
		}
		err := unix.Mount(target, target, "", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}
		if err != nil {
			return fmt.Errorf("making %s read-only: %w", path, err)
		}
	}
	return nil
}
