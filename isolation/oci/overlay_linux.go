package oci

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is one overlay mount.
type overlay struct {
	lower       []string // upper-most first, at least one
	upper, work string   // both empty: read-only
	flags       uintptr  // MS_*
}

// mount mounts the overlay at target. The kernel takes at most a page of options, which 128 layers with paths
// of ordinary length overrun, and it parses ":" and "," in paths. So the layers are handed over as
// /proc/self/fd/N: short, without special characters, and the same on every kernel.
func (o overlay) mount(target string) error {
	paths := &descriptorPaths{}
	defer paths.close()

	lower := make([]string, len(o.lower))
	for i, dir := range o.lower {
		lower[i] = paths.of(dir)
	}
	// index=off: an index is only of use to hard links broken by copying up, and asks for file handles.
	options := "index=off,lowerdir=" + strings.Join(lower, ":")
	flags := o.flags
	if o.upper == "" {
		flags |= unix.MS_RDONLY
	} else {
		// volatile: nothing of a scratch must survive a crash, so unmounting need not write it out first.
		options = fmt.Sprintf("volatile,upperdir=%s,workdir=%s,%s", paths.of(o.upper), paths.of(o.work), options)
	}
	if paths.err != nil {
		return paths.err
	}
	err := unix.Mount("overlay", target, "overlay", flags, options)
	switch {
	case errors.Is(err, unix.EINVAL) && len(options) >= os.Getpagesize():
		return fmt.Errorf("mounting %s: %d layers are more than the kernel takes", target, len(o.lower))
	case errors.Is(err, unix.EINVAL) && o.upper != "":
		return fmt.Errorf("mounting %s: %w (the file system of %s must not be an overlay itself, and needs extended attributes)", target, err, o.upper)
	case err != nil:
		return fmt.Errorf("mounting %s: %w", target, err)
	}
	return nil
}

// descriptorPaths opens directories and names them by their descriptors. The first error stays.
type descriptorPaths struct {
	open []int
	err  error
}

func (d *descriptorPaths) of(dir string) string {
	if d.err != nil {
		return ""
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		d.err = fmt.Errorf("opening the layer %s: %w", dir, err)
		return ""
	}
	d.open = append(d.open, fd)
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func (d *descriptorPaths) close() {
	for _, fd := range d.open {
		_ = unix.Close(fd)
	}
}

// unmount detaches everything mounted at target. It succeeds when nothing is.
func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmounting %s: %w", target, err)
		}
	}
}
