package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/tree"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Parallel is how many layers of one image are transferred and unpacked at a time.
const Parallel = 3

// platformState has nothing to hold here.
type platformState struct{} //nolint:unused // it is embedded, for Windows

// Root is what of a layer is handed out.
func (l *Layers) Root(id string) string { return filepath.Join(l.dir(id), "fs") }

// mark is there when all of a layer is.
func (l *Layers) mark(id string) string { return l.Root(id) }

// CheckFileSystem accepts any: scratches find out for themselves.
func CheckFileSystem(string) error { return nil }

// Store unpacks a layer aside, fits it to those below when they are there, gives it its name when it is whole, and
// returns what it is like.
func (l *Layers) Store(ctx context.Context, wanted Wanted, left *space.Budget) (stored Stored, err error) {
	if err := left.Take(space.Use{Inodes: layerInodes}); err != nil {
		return stored, err
	}
	ingest, err := os.MkdirTemp(l.opts.Ingest, "")
	if err != nil {
		return stored, fault.Systemf("unpacking layer %s: %w", wanted.DiffID, err)
	}
	defer l.opts.Trash.Discard(ingest)
	var found unpacked
	err = Read(ctx, wanted, left, func(content io.Reader) (err error) {
		found, err = unpack(ctx, filepath.Join(ingest, "fs"), content, left)
		return err
	})
	if err != nil {
		return stored, fmt.Errorf("layer %s: %w", wanted.DiffID, err)
	}
	if err := wanted.AwaitBelow(ctx); err != nil {
		return stored, err
	}
	var below []string
	for _, id := range slices.Backward(wanted.Below) {
		below = append(below, l.Root(id))
	}
	if err := settle(ctx, filepath.Join(ingest, "fs"), below, found.dependent); err != nil {
		return stored, fmt.Errorf("layer %s: %w", wanted.DiffID, err)
	}
	if stored.Use, err = tree.Measure(ctx, ingest); err != nil {
		return stored, fault.Systemf("measuring layer %s: %w", wanted.DiffID, err)
	}
	if err := failpoint.Hit("cache-unpacked"); err != nil {
		return stored, err
	}
	// A directory that lost its record, or layers to another hand, may be in the way.
	l.Discard(wanted.ID)
	if err := os.Rename(ingest, l.dir(wanted.ID)); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", wanted.DiffID, err)
	}
	stored.Omitted = found.omitted
	return stored, nil
}

// Discard makes a layer vanish at once and deletes it in the background.
func (l *Layers) Discard(id string) { l.opts.Trash.Discard(l.dir(id)) }

// Delete deletes what is in the trash.
func Delete(path string) error { return os.RemoveAll(path) }

// layerInodes are those of a layer's own directory and its root.
const layerInodes = 2

// Measure returns what a complete layer takes.
func (l *Layers) Measure(ctx context.Context, id string) (space.Use, error) {
	return tree.Measure(ctx, l.dir(id))
}

// Sync makes everything last that was written on the layers' file system.
func (l *Layers) Sync() error {
	f, err := os.Open(l.opts.Dir)
	if err != nil {
		return fmt.Errorf("syncing the cache: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fault.Systemf("syncing the cache: %w", err)
	}
	return nil
}
