package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/layout"
)

// Where the guest's roots are put together, in the initramfs. Once the image's root is mounted over it, nothing of
// this can be reached by a path any more.
const (
	assembly     = "/assembly"
	imageDisk    = assembly + "/image"
	helperDisk   = assembly + "/helper-disk"
	scratchDisk  = assembly + "/scratch"
	imageRoot    = assembly + "/root"
	helperRoot   = assembly + "/helper"
	helperShell  = assembly + "/helper-shell"
	helperNames  = assembly + "/helper-names"
	skeleton     = assembly + "/skeleton"
	agentProgram = "/init"
)

// The mounts that are the same in every sandbox, those of the kernel's own file systems, are made in the skeleton and
// moved to where they belong once the image's root is mounted.

// prepareRoots makes the skeleton and the directories to put the roots together in.
func prepareRoots() error {
	if err := layout.MakeDirs(0o755, assembly, imageDisk, helperDisk, scratchDisk, imageRoot, helperRoot, helperShell, helperNames,
		helperNames+"/etc", skeleton); err != nil {
		return err
	}
	if err := layout.MakeHelperShell(helperShell); err != nil {
		return err
	}
	for _, m := range layout.KernelMounts() {
		if err := mountGuest(skeleton, m); err != nil {
			return err
		}
	}
	return cover(skeleton)
}

// makeRoots mounts the disks, makes of them the same two roots that containers have, and makes the image's the
// root of this process.
func (s GuestSetup) makeRoots(disks map[string]string) error {
	if err := mountDisks(disks, s.Helper); err != nil {
		return err
	}
	sources := layout.Sources{Agent: agentProgram, Builds: scratchDisk + "/builds", Cache: scratchDisk + "/cache"}
	upper, work := scratchDisk+"/upper", scratchDisk+"/work"
	if err := layout.MakeDirs(0o755, upper, work, sources.Builds, sources.Cache); err != nil {
		return err
	}
	if err := hideLostAndFound(imageDisk, upper); err != nil {
		return err
	}
	options := fmt.Sprintf("volatile,index=off,lowerdir=%s,upperdir=%s,workdir=%s", imageDisk, upper, work)
	if err := unix.Mount("overlay", imageRoot, "overlay", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting the image's root: %w", err)
	}
	if err := layout.PrepareImage(imageRoot, s.Files); err != nil {
		return err
	}
	if err := s.replaceMachineID(); err != nil {
		return err
	}
	if s.Helper {
		sources.Helper, sources.HelperTmp = helperRoot, scratchDisk+"/helper-tmp"
		if err := s.mountHelper(sources.HelperTmp); err != nil {
			return err
		}
	}
	if err := moveSkeleton(); err != nil {
		return err
	}
	for _, m := range layout.SandboxMounts(sources) {
		if err := mountGuest(imageRoot, m); err != nil {
			return err
		}
	}
	return enterRoot(imageRoot)
}

// hideLostAndFound hides the /lost+found that an ext4 disk must have, unless the image has one of its own: only the
// format's own has no time.
func hideLostAndFound(disk, upper string) error {
	var st unix.Stat_t
	if err := unix.Lstat(disk+"/lost+found", &st); err != nil || st.Mtim.Nano() != 0 {
		return nil //nolint:nilerr // there is nothing to hide
	}
	if err := unix.Mknod(upper+"/lost+found", unix.S_IFCHR, 0); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("hiding the disk's lost+found: %w", err)
	}
	return nil
}

// moveSkeleton moves the skeleton's mounts, with those below them, into the image's root.
func moveSkeleton() error {
	for _, m := range layout.KernelMounts() {
		if strings.Count(m.Destination, "/") > 1 {
			continue // it moves with the one that it lies in
		}
		if err := unix.Mount(skeleton+m.Destination, imageRoot+m.Destination, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Destination, err)
		}
	}
	return nil
}

// findDisks finds the disks by their serial numbers, and makes the kernel forget what it read of them when it booted:
// once the machine is restored from a template, they are others.
func (g *guest) findDisks() error {
	devices, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return err
	}
	g.disks = map[string]string{}
	for _, path := range devices {
		serial, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(path)))
		if err := forget(device, 0); err != nil {
			return err
		}
		g.disks[strings.TrimSpace(string(serial))] = device
	}
	return nil
}

// forget drops what the kernel has read of a disk. With the flag O_EXCL it fails while the disk is mounted.
func forget(device string, flags int) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", device, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("dropping what was read of %s: %w", device, err)
	}
	return nil
}

// mountDisks mounts the disks of both roots and the scratch.
func mountDisks(disks map[string]string, helper bool) error {
	if err := mountDisk(disks, GuestImage, imageDisk, unix.MS_RDONLY); err != nil {
		return err
	}
	if err := mountDisk(disks, GuestScratch, scratchDisk, unix.MS_NODEV|unix.MS_NOSUID); err != nil || !helper {
		return err
	}
	return mountDisk(disks, GuestHelper, helperDisk, unix.MS_RDONLY)
}

// mountDisk mounts an ext4 disk.
func mountDisk(disks map[string]string, serial, target string, flags uintptr) error {
	device, ok := disks[serial]
	if !ok {
		return fmt.Errorf("the guest has no disk with the serial number %q", serial)
	}
	if err := unix.Mount(device, target, "ext4", flags|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mounting the disk %s (ext4): %w", serial, err)
	}
	return nil
}

// replaceMachineID gives the sandbox an identity of its own where the image has room for one: every sandbox of the
// image would have the same.
func (s GuestSetup) replaceMachineID() error {
	return layout.ReplaceFile(imageRoot, "etc/machine-id", s.MachineID+"\n", 0o444)
}

// mountHelper mounts the helper root: see layout.MakeHelperShell for its layers.
func (s GuestSetup) mountHelper(tmp string) error {
	if err := layout.MakeDirs(fs.ModeSticky|0o777, tmp); err != nil {
		return err
	}
	for name, content := range s.Files {
		if err := os.WriteFile(filepath.Join(helperNames, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("preparing the helper root: %w", err)
		}
	}
	options := fmt.Sprintf("index=off,lowerdir=%s:%s:%s", helperNames, helperShell, helperDisk)
	if err := unix.Mount("overlay", helperRoot, "overlay", unix.MS_RDONLY, options); err != nil {
		return fmt.Errorf("mounting the helper root: %w", err)
	}
	return nil
}

// enterRoot makes dir the root of this process and of the mount namespace, as switch_root(8) does: an initramfs
// cannot be pivoted away from.
func enterRoot(dir string) error {
	err := unix.Chdir(dir)
	if err == nil {
		err = unix.Mount(".", "/", "", unix.MS_MOVE, "")
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err == nil {
		err = unix.Chdir("/")
	}
	if err != nil {
		return fmt.Errorf("entering the image's root: %w", err)
	}
	return nil
}
