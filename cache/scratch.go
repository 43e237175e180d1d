package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// ScratchKind is how scratches are made and bounded.
type ScratchKind string

// The kinds.
const (
	// ScratchLoop is a sparse ext4 disk image, without a journal, on a loop device: the default. It takes
	// space on disk as it fills, and a full one is ENOSPC for its job alone. Needs mkfs.ext4 and Linux 5.8.
	ScratchLoop ScratchKind = "loop"
	// ScratchTmpfs is a tmpfs of that size: memory and swap, for hosts without a disk worth the name.
	ScratchTmpfs ScratchKind = "tmpfs"
	// ScratchDirectory is a plain directory. Nothing bounds it: one job can fill the disk.
	ScratchDirectory ScratchKind = "directory"
)

// ScratchRequest asks for a scratch.
type ScratchRequest struct {
	// ID is the sandbox's: [a-z0-9-]{1,40}.
	ID string
	// Size in bytes, at least 16 MiB; file system structures take a small part of it. 0: a plain directory
	// without bound, whatever the kind. For FormDisk at most DiskSize, which 0 stands for.
	Size int64
	// Form is what the scratch is for; with FormDisk Options.Scratch does not matter.
	Form Form
}

// Scratch is the writable layer of one sandbox.
type Scratch struct {
	// Dir is an empty, mounted directory, mode 0755. What is below it is the runtime's.
	Dir string
	// Disk, with FormDisk instead of Dir, is a sparse file of DiskSize bytes that begins with an empty ext4 file
	// system of the size asked for: nothing is attached or mounted. The rest of the file is a hole that the
	// file system never touches, but whoever has the whole device can: package microvm cuts it.
	// It is mode 0600 in a directory that only root may search: hand it on as a descriptor.
	Disk string
}

// minScratch is the smallest size: ext4's own structures need some.
const minScratch = 16 << 20

var scratchID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// NewScratch makes the scratch of one sandbox; there must be none of that id. When it fails, nothing is left.
func (c *Cache) NewScratch(ctx context.Context, req ScratchRequest) (Scratch, error) {
	if !scratchID.MatchString(req.ID) {
		return Scratch{}, fault.Systemf("scratch id %q does not match %s", req.ID, scratchID)
	}
	if req.Size < 0 || req.Size > 0 && req.Size < minScratch {
		return Scratch{}, fault.WithRemedy(fault.Adminf("a scratch of %s is too small", bytesize.Format(req.Size)),
			"set scratch_size to 16 MiB or more")
	}
	if req.Form == FormDisk && req.Size > DiskSize {
		return Scratch{}, fault.WithRemedy(fault.Adminf("a scratch of %s is too large for a disk", bytesize.Format(req.Size)),
			"set scratch_size to 64 GiB or less")
	}
	err := os.Mkdir(c.scratchDir(req.ID), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return Scratch{}, fault.Systemf("scratch %s exists already", req.ID)
	}
	if err != nil {
		return Scratch{}, fault.Systemf("making scratch %s: %w", req.ID, err)
	}
	scratch, err := c.scratches.create(ctx, req)
	if err != nil {
		return Scratch{}, errors.Join(fmt.Errorf("making scratch %s: %w", req.ID, err),
			c.DestroyScratch(context.WithoutCancel(ctx), req.ID))
	}
	return scratch, nil
}

// DestroyScratch removes a scratch with all it holds, by its id alone: also one that an earlier process made,
// whether its mount still is there or not. It succeeds when there is none. Its blocks may be freed a little
// later; Close waits for that.
func (c *Cache) DestroyScratch(ctx context.Context, id string) error {
	if !scratchID.MatchString(id) {
		return fault.Systemf("scratch id %q does not match %s", id, scratchID)
	}
	if err := c.scratches.destroy(ctx, id); err != nil {
		return fmt.Errorf("destroying scratch %s: %w", id, err)
	}
	return nil
}

// Scratches lists the ids of all scratches there are, those of earlier processes included, sorted.
func (c *Cache) Scratches(context.Context) ([]string, error) {
	var ids []string
	for _, dir := range []string{filepath.Dir(c.scratchDir("x")), filepath.Dir(c.scratchMount("x"))} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fault.Systemf("listing scratches: %w", err)
		}
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// ScratchUsage returns how many bytes of a scratch are in use.
func (c *Cache) ScratchUsage(_ context.Context, id string) (int64, error) {
	if !scratchID.MatchString(id) {
		return 0, fault.Systemf("scratch id %q does not match %s", id, scratchID)
	}
	return c.scratches.usage(id)
}

func (c *Cache) scratchDir(id string) string   { return filepath.Join(c.opts.Dir, "scratch", id) }
func (c *Cache) scratchMount(id string) string { return filepath.Join(c.opts.RunDir, "scratch", id) }
