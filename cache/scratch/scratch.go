// Package scratch owns the writable layers of sandboxes: loop-mounted disk images, tmpfses, directories, guests' disks.
//
// Each belongs to one sandbox, is named by its id, and is destroyed by that id alone, whatever process made it. It is
// never used again, and what a guest wrote is never mounted here. Formatted images are kept ready, so that making one is a
// rename. It never looks for who uses a scratch. The facade is its caller.
package scratch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/trash"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Kind is how scratches are made and bounded.
type Kind string

// The kinds.
const (
	// Loop is a sparse ext4 disk image, without a journal, on a loop device: the default. It takes
	// space on disk as it fills, and a full one is ENOSPC for its job alone. Needs mkfs.ext4 and Linux 5.8.
	Loop Kind = "loop"
	// Tmpfs is a tmpfs of that size: memory and swap, for hosts without a disk worth the name.
	Tmpfs Kind = "tmpfs"
	// Directory is a plain directory. Nothing bounds it: one job can fill the disk.
	Directory Kind = "directory"
)

// Request asks for a scratch.
type Request struct {
	// ID is the sandbox's: [a-z0-9-]{1,40}.
	ID string
	// Size in bytes, at least 16 MiB; file system structures take a small part of it. 0: a plain directory
	// without bound, whatever the kind. For a disk at most disk.Size, which 0 stands for.
	Size int64
	// Disk asks for a disk for a guest, whatever the kind.
	Disk bool
}

// Scratch is the writable layer of one sandbox.
type Scratch struct {
	// Dir is an empty, mounted directory, mode 0755. What is below it is the runtime's.
	Dir string
	// Disk, instead of Dir if it was asked for, is a sparse file of disk.Size bytes that begins with an empty ext4 file
	// system of the size asked for: nothing is attached or mounted. The rest of the file is a hole that the
	// file system never touches, but whoever has the whole device can: package microvm cuts it.
	// It is mode 0600 in a directory that only root may search: hand it on as a descriptor.
	Disk string
}

// minScratch is the smallest size: ext4's own structures need some.
const minScratch = 16 << 20

var scratchID = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// Options say where scratches are and what they are.
type Options struct {
	// Dir is a directory of scratches alone, MountDir one of their mount points alone. Pool is one, on Dir's file system,
	// for disk images that are ready to be taken; the caller empties it at the start.
	Dir, MountDir, Pool string
	// Kind is that of all but disks.
	Kind Kind
	// ReadySize is the size of which disk images are kept ready from the start, in bytes; others are from the first on
	// that is asked for. 0: none.
	ReadySize int64
	Trash     *trash.Trash
	// Life ends what goes on in the background, and Background counts that.
	Life       context.Context //nolint:containedctx // of the whole object
	Background *sync.WaitGroup
	Log        zerolog.Logger
}

// Make makes the scratch of one sandbox; there must be none of that id. When it fails, nothing is left.
func (s *Scratches) Make(ctx context.Context, req Request) (Scratch, error) {
	if !scratchID.MatchString(req.ID) {
		return Scratch{}, fault.Systemf("scratch id %q does not match %s", req.ID, scratchID)
	}
	if req.Size < 0 || req.Size > 0 && req.Size < minScratch {
		return Scratch{}, fault.WithRemedy(fault.Adminf("a scratch of %s is too small", bytesize.Format(req.Size)),
			"set scratch_size to 16 MiB or more")
	}
	if req.Disk && req.Size > disk.Size {
		return Scratch{}, fault.WithRemedy(fault.Adminf("a scratch of %s is too large for a disk", bytesize.Format(req.Size)),
			"set scratch_size to 64 GiB or less")
	}
	err := os.Mkdir(s.dir(req.ID), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return Scratch{}, fault.Systemf("scratch %s exists already", req.ID)
	}
	if err != nil {
		return Scratch{}, fault.Systemf("making scratch %s: %w", req.ID, err)
	}
	scratch, err := s.create(ctx, req)
	if err != nil {
		return Scratch{}, errors.Join(fmt.Errorf("making scratch %s: %w", req.ID, err),
			s.Destroy(context.WithoutCancel(ctx), req.ID))
	}
	return scratch, nil
}

// Destroy removes a scratch with all it holds, by its id alone: also one that an earlier process made,
// whether its mount still is there or not. It succeeds when there is none. Its blocks may be freed a little
// later, in the background.
func (s *Scratches) Destroy(ctx context.Context, id string) error {
	if !scratchID.MatchString(id) {
		return fault.Systemf("scratch id %q does not match %s", id, scratchID)
	}
	if err := s.destroy(ctx, id); err != nil {
		return fmt.Errorf("destroying scratch %s: %w", id, err)
	}
	return nil
}

// List lists the ids of all scratches there are, those of earlier processes included, sorted.
func (s *Scratches) List() ([]string, error) {
	var ids []string
	for _, dir := range []string{filepath.Dir(s.dir("x")), filepath.Dir(s.mount("x"))} {
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

// Usage returns how many bytes of a scratch are in use.
func (s *Scratches) Usage(id string) (int64, error) {
	if !scratchID.MatchString(id) {
		return 0, fault.Systemf("scratch id %q does not match %s", id, scratchID)
	}
	return s.usage(id)
}

func (s *Scratches) dir(id string) string   { return filepath.Join(s.opts.Dir, id) }
func (s *Scratches) mount(id string) string { return filepath.Join(s.opts.MountDir, id) }
