package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// The helper root is an overlay without an upper layer, so nothing can change it, not even root. Two layers
// lie above the helper image's own, and one below:
//   - the names layer of the sandbox (its /etc/hosts and the like; a copy apart from the image's, so that the
//     author's code cannot change where the runner's own stages connect to);
//   - the shell, one for all sandboxes: mount points, which nobody can make later, and device nodes, which
//     therefore need no mounts. Being upper-most it also covers links that the helper image may have there;
//   - the alias, one for all sandboxes: the name gitlab-runner, which is what scripts for a custom executor call,
//     for GitLab's own helper image, which has the program as gitlab-runner-helper. Being the lowest it
//     gives way to whatever the helper image has itself.

// helperMountPoints are the directories of the shell and their modes.
var helperMountPoints = map[string]fs.FileMode{
	isolation.Dir:       0o755,
	isolation.BuildsDir: 0o755,
	isolation.CacheDir:  0o755,
	"/proc":             0o755,
	"/tmp":              fs.ModeSticky | 0o777,
	"/dev":              0o755,
}

// devices are the device nodes of every root: their numbers are those of the kernel's
// Documentation/admin-guide/devices.txt.
var devices = map[string]uint64{
	"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7),
	"random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0),
}

// deviceLinks are the links beside them.
var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

// MakeDevices makes the device nodes and links of a /dev in dir. They are the same always, so some may be there already.
func MakeDevices(dir string) error {
	for name, device := range devices {
		path := filepath.Join(dir, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(device)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making the device node %s: %w", path, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return err
		}
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// MakeHelperShell makes the shell in dir. It is the same always, so an existing one is completed.
func MakeHelperShell(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, mode := range helperMountPoints {
		if err := MakeDirs(mode, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return MakeDevices(filepath.Join(dir, "dev"))
}

// MakeHelperAlias makes the alias in dir. In images without gitlab-runner-helper it leads nowhere, and counts as
// missing to who looks for it.
func MakeHelperAlias(dir string) error {
	bin := filepath.Join(dir, "usr", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("gitlab-runner-helper", filepath.Join(bin, "gitlab-runner")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
