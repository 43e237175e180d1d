package scratch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Scratches makes and destroys scratches.
type Scratches struct {
	opts Options
	pool *pool
}

// New finds out whether scratches can be made, and returns those that there are.
func New(opts Options) (*Scratches, error) {
	s := &Scratches{opts: opts, pool: newPool(opts)}
	switch opts.Kind {
	case Loop:
		if err := s.pool.prepare(); err != nil {
			return nil, err
		}
	case Tmpfs, Directory:
	default:
		return nil, fault.WithRemedy(fault.Adminf("unknown kind of scratch %q", opts.Kind), "use loop, tmpfs or directory")
	}
	return s, nil
}

func (s *Scratches) create(ctx context.Context, req Request) (Scratch, error) {
	if req.Disk {
		return s.createDisk(ctx, req)
	}
	if req.Size == 0 || s.opts.Kind == Directory {
		dir := filepath.Join(s.dir(req.ID), "fs")
		return Scratch{Dir: dir}, makeDir0755(dir)
	}
	mount := s.mount(req.ID)
	if err := makeDir0755(mount); err != nil {
		return Scratch{}, err
	}
	if s.opts.Kind == Tmpfs {
		err := unix.Mount("tmpfs", mount, "tmpfs", unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", req.Size))
		if err != nil {
			return Scratch{}, fault.Systemf("mounting a tmpfs: %w", err)
		}
		return Scratch{Dir: mount}, nil
	}
	path := s.loopDisk(req.ID)
	if err := s.pool.take(ctx, req.Size, path); err != nil {
		return Scratch{}, err
	}
	if err := failpoint.Hit("scratch-disk"); err != nil {
		return Scratch{}, err
	}
	return Scratch{Dir: mount}, mountDisk(path, mount)
}

// createDisk makes a scratch for a guest.
func (s *Scratches) createDisk(ctx context.Context, req Request) (Scratch, error) {
	path := s.guestDisk(req.ID)
	size := req.Size
	if size == 0 {
		size = disk.Size
	}
	if err := s.pool.take(ctx, size, path); err != nil {
		return Scratch{}, err
	}
	if err := failpoint.Hit("scratch-guest"); err != nil {
		return Scratch{}, err
	}
	if err := os.Truncate(path, disk.Size); err != nil {
		return Scratch{}, fault.Systemf("growing the disk image: %w", err)
	}
	return Scratch{Disk: path}, nil
}

// guestDisk is never attached here, so that nobody need look for a loop device over it.
func (s *Scratches) guestDisk(id string) string { return filepath.Join(s.dir(id), "guest.img") }

func (s *Scratches) loopDisk(id string) string { return filepath.Join(s.dir(id), "disk.img") }

func makeDir0755(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fault.Systemf("making the scratch's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return fault.Systemf("making the scratch's directory: %w", err)
	}
	return nil
}

// scratchOptions trade durability, which a scratch does not need, for speed: no flushes to the disk below.
const scratchOptions = "noinit_itable,nobarrier,noauto_da_alloc"

func mountDisk(disk, mount string) error {
	device, err := AttachLoop(disk)
	if err != nil {
		return err
	}
	defer device.Close() // the mount holds the device; without one it detaches itself here
	if err := failpoint.Hit("scratch-attached"); err != nil {
		return err
	}
	if err := unix.Mount(device.Name(), mount, "ext4", unix.MS_NODEV|unix.MS_NOATIME, scratchOptions); err != nil {
		return fault.Systemf("mounting %s: %w", device.Name(), err)
	}
	if err := os.Remove(filepath.Join(mount, "lost+found")); err != nil {
		return fault.Systemf("emptying a new scratch: %w", err)
	}
	return failpoint.Hit("scratch-mounted")
}

func (s *Scratches) destroy(ctx context.Context, id string) error {
	mount, disk := s.mount(id), s.loopDisk(id)
	mounted, err := unmountScratch(ctx, mount, disk)
	if err != nil {
		return err
	}
	if err := os.Remove(mount); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Systemf("removing its mount point: %w", err)
	}
	if _, err := os.Lstat(disk); err == nil && !mounted {
		// A process of the past may have attached it in a mount namespace that still lives.
		if err := detachLoops(disk); err != nil {
			return err
		}
	}
	gone, err := s.opts.Trash.Move(s.dir(id))
	if err != nil {
		return fault.Systemf("%w", err)
	}
	if gone != "" {
		s.opts.Trash.DeleteLater(gone)
	}
	return nil
}

// unmountScratch unmounts whatever is mounted there; mounted reports whether something was. What is busy for
// longer than a moment is detached: it vanishes from here and ends with its last user.
func unmountScratch(ctx context.Context, mount, disk string) (mounted bool, err error) {
	for attempt := 0; ; {
		shutDown(mount, disk)
		flags := unix.UMOUNT_NOFOLLOW
		if attempt >= 5 || ctx.Err() != nil {
			flags |= unix.MNT_DETACH
		}
		err := unix.Unmount(mount, flags)
		switch {
		case err == nil:
			mounted = true
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return mounted, nil
		case errors.Is(err, unix.EBUSY) && flags&unix.MNT_DETACH == 0:
			attempt++
			time.Sleep(10 * time.Millisecond)
		default:
			return mounted, fault.Systemf("unmounting %s: %w", mount, err)
		}
	}
}

// EXT4_IOC_SHUTDOWN and its flag that nothing be written back; linux/include/uapi/linux/ext4.h. They are not
// in x/sys.
const (
	ext4Shutdown   = 0x8004587d
	ext4NoLogFlush = 2
)

// shutDown tells the file system of a scratch that nobody wants its content: unmounting it then does not
// write all of that to the disk image first. It only saves time, so failing does not matter; but it must
// never hit another file system, so the device has to be a loop device over this very disk image.
func shutDown(mount, disk string) {
	dir, err := os.OpenFile(mount, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil || unix.Major(st.Dev) != loopMajor {
		return
	}
	if backingFile(fmt.Sprintf("/sys/dev/block/%d:%d", loopMajor, unix.Minor(st.Dev))) == disk {
		_ = unix.IoctlSetPointerInt(int(dir.Fd()), ext4Shutdown, ext4NoLogFlush)
	}
}

func (s *Scratches) usage(id string) (int64, error) {
	if info, err := os.Lstat(s.guestDisk(id)); err == nil {
		return space.Allocated(info), nil
	}
	if _, err := os.Lstat(s.mount(id)); err == nil {
		var st unix.Statfs_t
		if err := unix.Statfs(s.mount(id), &st); err != nil {
			return 0, fault.Systemf("reading the use of scratch %s: %w", id, err)
		}
		return int64(st.Blocks-st.Bfree) * st.Bsize, nil
	}
	var sum int64
	err := filepath.WalkDir(filepath.Join(s.dir(id), "fs"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	if err != nil {
		return 0, fault.Systemf("reading the use of scratch %s: %w", id, err)
	}
	return sum, nil
}
