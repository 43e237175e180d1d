package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/bytesize"
)

// What the disk of state_dir should have free: below the first one image may not fit, below the second a few.
const (
	tooLittleSpace = 1 << 30
	littleSpace    = 10 << 30
)

// goodFileSystems can hold unpacked layers: they know owners, extended attributes, hard links and devices.
var goodFileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC:  "ext4",
	unix.XFS_SUPER_MAGIC:   "xfs",
	unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.F2FS_SUPER_MAGIC:  "f2fs",
	0x2FC12FC1:             "zfs",
	unix.TMPFS_MAGIC:       "tmpfs",
}

// checkStorage looks at the disk that holds, or will hold, state_dir.
func checkStorage(r *report, cfg *config.Config) {
	const check = "state_dir"
	var fs unix.Statfs_t
	if err := unix.Statfs(existingParent(cfg.StateDir), &fs); err != nil {
		r.fail(check, "make the directory accessible", "%s: %v", cfg.StateDir, err)
		return
	}
	name, good := goodFileSystems[fs.Type]
	free := fs.Bavail * uint64(fs.Frsize)
	minSpace, minInodes := cfg.Cache.MinFree(int64(fs.Blocks)*fs.Frsize, int64(fs.Files))
	has := fmt.Sprintf("%s has %.1f GiB free", cfg.StateDir, float64(free)/(1<<30))
	switch {
	case !good:
		r.warn(check, "put it on a disk of its own with ext4, xfs or btrfs",
			"%s is on a file system (type %#x) that may not keep what images hold", cfg.StateDir, fs.Type)
	case free < tooLittleSpace:
		r.fail(check, "free some space, or name a larger disk with state_dir", "%s (%s)", has, name)
	case free < uint64(minSpace):
		r.fail(check, "free some space, or lower min_free_space in [cache]",
			"%s, and pulls leave %s free: no image can be pulled (%s)", has, bytesize.Format(minSpace), name)
	case fs.Ffree < uint64(minInodes):
		r.fail(check, "remove files, or lower min_free_inodes in [cache]",
			"%s has %d inodes free, and pulls leave %d: no image can be pulled (%s)", cfg.StateDir, fs.Ffree, minInodes, name)
	case free < littleSpace:
		r.warn(check, "free some space, or set disk_limit in [cache] below it", "%s (%s)", has, name)
	case fs.Type == unix.TMPFS_MAGIC:
		r.warn(check, "name a directory on a disk with state_dir", "%s (tmpfs): images use memory and are lost at a reboot", has)
	case fs.Files > 0:
		r.ok(check, "%s and %d inodes (%s)", has, fs.Ffree, name)
	default:
		r.ok(check, "%s (%s)", has, name)
	}
}

// existingParent is dir or, if that has yet to be made, the nearest directory above it that exists.
func existingParent(dir string) string {
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// checkScratch looks for what sized scratches are made with: mkfs.ext4 and loop devices.
func checkScratch(r *report, cfg *config.Config) {
	if cfg.Cache.Scratch != "loop" {
		return
	}
	const check = "scratch"
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs, err = exec.LookPath("/sbin/mkfs.ext4"); err != nil {
			r.fail(check, "install e2fsprogs (apt install e2fsprogs)", "mkfs.ext4 is not installed: scratches cannot be made")
			return
		}
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = control.Close()
		r.ok(check, "%s and loop devices are there", mkfs)
	case errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		r.info(check, "%s is there; loop devices were not tried, that needs root", mkfs)
	default:
		r.fail(check, "load the loop module (modprobe loop), or in a container pass its devices through", "no loop devices: %v", err)
	}
}

// checkOverlay mounts an overlay as a sandbox has it: the lower directory where images are, the upper one on a
// file system of its own.
func checkOverlay(r *report, cfg *config.Config) {
	const check = "overlayfs"
	parent := os.TempDir()
	if info, err := os.Stat(cfg.StateDir); err == nil && info.IsDir() {
		parent = cfg.StateDir
	}
	dir, err := os.MkdirTemp(parent, ".airlock-doctor-")
	if err != nil {
		r.fail(check, "make the directory writable for root", "%v", err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := inNamespaces(unix.CLONE_NEWNS, func() error { return tryOverlay(dir) }); err != nil {
		r.fail(check, "load the overlay module (modprobe overlay); state_dir must not be on overlayfs, NFS or FAT itself",
			"an overlay over %s does not work: %v", parent, err)
		return
	}
	r.ok(check, "works over %s", parent)
}

// tryOverlay changes a file through an overlay in dir and looks where the change went.
func tryOverlay(dir string) error {
	lower, scratch, merged := filepath.Join(dir, "lower"), filepath.Join(dir, "scratch"), filepath.Join(dir, "merged")
	for _, d := range []string{lower, scratch, merged} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(lower, "file"), []byte("base"), 0o600); err != nil {
		return err
	}
	if err := unix.Mount("airlock-doctor", scratch, "tmpfs", 0, "size=1m"); err != nil {
		return os.NewSyscallError("mounting tmpfs", err)
	}
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	options := strings.Join([]string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}, ",")
	if err := unix.Mount("airlock-doctor", merged, "overlay", 0, options); err != nil {
		return os.NewSyscallError("mounting overlay", err)
	}
	if err := os.WriteFile(filepath.Join(merged, "file"), []byte("changed"), 0o600); err != nil {
		return err
	}
	below, err := os.ReadFile(filepath.Join(lower, "file"))
	if err != nil {
		return err
	}
	if string(below) != "base" {
		return errors.New("a change went through to the lower directory")
	}
	return nil
}
