package cache

import (
	"context"

	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/volume"
)

// Form is what a base or a scratch is made as.
type Form int

const (
	// FormLayers are host directories: unpacked layers, and a directory to write to. The default.
	FormLayers Form = iota
	// FormDisk are disk images, for guests with a kernel of their own.
	FormDisk
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

// NewScratch makes the scratch of one sandbox; there must be none of that id. When it fails, nothing is left.
func (c *Cache) NewScratch(ctx context.Context, req ScratchRequest) (Scratch, error) {
	return c.scratches.Make(ctx, scratch.Request{ID: req.ID, Size: req.Size, Disk: req.Form == FormDisk})
}

// DestroyScratch removes a scratch with all it holds, by its id alone: also one that an earlier process made,
// whether its mount still is there or not. It succeeds when there is none. Its blocks may be freed a little
// later; Close waits for that.
func (c *Cache) DestroyScratch(ctx context.Context, id string) error {
	return c.scratches.Destroy(ctx, id)
}

// Scratches lists the ids of all scratches there are, those of earlier processes included, sorted.
func (c *Cache) Scratches(context.Context) ([]string, error) { return c.scratches.List() }

// ScratchUsage returns how many bytes of a scratch are in use.
func (c *Cache) ScratchUsage(_ context.Context, id string) (int64, error) {
	return c.scratches.Usage(id)
}

// CacheVolume returns the directory that keeps what the jobs of one scope cache between them, made when missing. The scope
// is any text; the caller decides which jobs share it.
func (c *Cache) CacheVolume(_ context.Context, scope string) (string, error) {
	return volume.Open(c.path("volumes"), scope)
}
