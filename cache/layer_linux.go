package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// parallelLayers is how many layers of one image are transferred and unpacked at a time.
const parallelLayers = 3

// platformState has nothing to hold here.
type platformState struct{} //nolint:unused // it is embedded, for Windows

// layerRoot is what of a layer is handed out, and completeMark is there when all of it is.
func layerRoot(dir, id string) string    { return filepath.Join(layerDir(dir, id), "fs") }
func completeMark(dir, id string) string { return layerRoot(dir, id) }

// checkFileSystem accepts any: scratches find out for themselves.
func checkFileSystem(string) error { return nil }

// storeLayer unpacks a layer aside, fits it to those below when they are there, gives it its name when it is whole, and
// returns what it is like.
func (c *Cache) storeLayer(ctx context.Context, p *pull, l wantedLayer, left *budget) (stored storedLayer, err error) {
	if err := left.take(Use{Inodes: layerInodes}); err != nil {
		return stored, err
	}
	ingest, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "ingest"), "")
	if err != nil {
		return stored, fault.Systemf("unpacking layer %s: %w", l.diffID, err)
	}
	defer c.discard(ingest)
	var found unpacked
	err = readLayer(ctx, p, l, left, func(content io.Reader) (err error) {
		found, err = unpack(ctx, filepath.Join(ingest, "fs"), content, left)
		return err
	})
	if err != nil {
		return stored, fmt.Errorf("layer %s: %w", l.diffID, err)
	}
	if err := l.awaitBelow(ctx); err != nil {
		return stored, err
	}
	var below []string
	for _, id := range slices.Backward(l.below) {
		below = append(below, layerRoot(c.opts.Dir, id))
	}
	if err := settle(ctx, filepath.Join(ingest, "fs"), below, found.dependent); err != nil {
		return stored, fmt.Errorf("layer %s: %w", l.diffID, err)
	}
	if stored.use, err = measure(ctx, ingest); err != nil {
		return stored, fault.Systemf("measuring layer %s: %w", l.diffID, err)
	}
	if err := failpoint.Hit("cache-unpacked"); err != nil {
		return stored, err
	}
	// A directory that lost its record, or layers to another hand, may be in the way.
	c.discardLayer(l.id)
	if err := os.Rename(ingest, layerDir(c.opts.Dir, l.id)); err != nil {
		return stored, fault.Systemf("storing layer %s: %w", l.diffID, err)
	}
	stored.omitted = found.omitted
	return stored, nil
}

// discardLayer makes a layer vanish at once and deletes it in the background.
func (c *Cache) discardLayer(id string) { c.discard(layerDir(c.opts.Dir, id)) }

// deleteAll deletes what is in the trash.
func deleteAll(path string) error { return os.RemoveAll(path) }

// layerInodes are those of a layer's own directory and its root.
const layerInodes = 2

// measureLayer returns what a complete layer takes.
func (c *Cache) measureLayer(ctx context.Context, id string) (Use, error) {
	return measure(ctx, layerDir(c.opts.Dir, id))
}
