package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// readyDisks is how many formatted disk images of a size are kept ready.
const readyDisks = 3

// disks keeps formatted disk images ready: taking one is a rename.
type disks struct {
	cache *Cache

	mu        sync.Mutex
	templates map[int64]string
	ready     map[int64][]string
	filling   map[int64]bool
}

func newDisks(c *Cache) *disks {
	return &disks{cache: c, templates: map[int64]string{}, ready: map[int64][]string{}, filling: map[int64]bool{}}
}

// prepare finds out early whether disk images can be made, and makes the first.
func (d *disks) prepare() error {
	if _, err := findMkfs(); err != nil {
		return err
	}
	if size := d.cache.opts.ScratchSize; size >= minScratch {
		d.refill(size)
	}
	return nil
}

func findMkfs() (string, error) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		return "", fault.WithRemedy(fault.Adminf("scratches need mkfs.ext4: %w", err),
			"install e2fsprogs, or set the scratch's kind to tmpfs")
	}
	return mkfs, nil
}

// take moves a formatted disk image of a size to path.
func (d *disks) take(ctx context.Context, size int64, path string) error {
	d.mu.Lock()
	var disk string
	if ready := d.ready[size]; len(ready) > 0 {
		disk, d.ready[size] = ready[len(ready)-1], ready[:len(ready)-1]
	}
	d.mu.Unlock()
	if disk == "" {
		var err error
		if disk, err = d.make(ctx, size); err != nil {
			return err
		}
	}
	d.refill(size)
	if err := os.Rename(disk, path); err != nil {
		return fault.Systemf("taking a disk image: %w", err)
	}
	return nil
}

// refill makes disk images of a size in the background until enough are ready.
func (d *disks) refill(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.filling[size] || len(d.ready[size]) >= readyDisks {
		return
	}
	d.filling[size] = true
	d.cache.background.Go(func() {
		for d.addReady(size) {
		}
	})
}

// addReady adds one disk image and reports whether more are wanted.
func (d *disks) addReady(size int64) bool {
	disk, err := d.make(d.cache.life, size)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.cache.log.Error().Err(err).Int64("size", size).Msg("cannot keep scratch disks ready")
		d.filling[size] = false
		return false
	}
	d.ready[size] = append(d.ready[size], disk)
	d.filling[size] = len(d.ready[size]) < readyDisks
	return d.filling[size]
}

// make copies the template of a size.
func (d *disks) make(ctx context.Context, size int64) (disk string, err error) {
	template, err := d.template(ctx, size)
	if err != nil {
		return "", err
	}
	target, err := os.CreateTemp(filepath.Join(d.cache.opts.Dir, "pool"), "disk-*")
	if err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	source, err := os.Open(template)
	if err == nil {
		err = errors.Join(copySparse(target, source, size), source.Close())
	}
	if err = errors.Join(err, target.Close()); err != nil {
		return "", errors.Join(fault.Systemf("making a disk image: %w", err), os.Remove(target.Name()))
	}
	return target.Name(), nil
}

// template formats the first disk image of a size in this process.
func (d *disks) template(ctx context.Context, size int64) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if path := d.templates[size]; path != "" {
		return path, nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("making a disk image: %w", context.Cause(ctx))
	}
	mkfs, err := findMkfs()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Join(d.cache.opts.Dir, "pool"), "template-*")
	if err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	if err := format(ctx, mkfs, f.Name()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	d.templates[size] = f.Name()
	return f.Name(), nil
}

// format makes an ext4 file system that is never repaired or grown: no journal, no room to resize, no blocks
// kept back for root, nothing written that can be left to zeros.
func format(ctx context.Context, mkfs, path string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("mkfs.ext4 took longer than a minute"))
	defer cancel()
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0",
		"-E", "lazy_itable_init=1,nodiscard,packed_meta_blocks=1,root_owner=0:0", path)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fault.Systemf("mkfs.ext4: %w: %s", err, printable(output.String(), 500))
	}
	return nil
}

// copySparse makes target, which is empty, equal to source: by sharing its blocks where the file system can,
// else by copying what is not a hole.
func copySparse(target, source *os.File, size int64) error {
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err == nil {
		return nil
	}
	if err := target.Truncate(size); err != nil {
		return err
	}
	for offset := int64(0); offset < size; {
		data, err := unix.Seek(int(source.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("looking for data: %w", err)
		}
		if offset, err = unix.Seek(int(source.Fd()), data, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("looking for a hole: %w", err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(target, data), io.NewSectionReader(source, data, offset-data)); err != nil {
			return err
		}
	}
	return nil
}
