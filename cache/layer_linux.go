package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/executor/api/failpoint"
	"github.com/airlock-ci/airlock/executor/api/fault"
)

// parallelLayers is how many layers of one image are transferred and unpacked at a time.
const parallelLayers = 3

// platformState has nothing to hold here.
type platformState struct{} //nolint:unused // it is embedded, for Windows

// layerIDs names layers by their own content: a layer is the same above any other.
func layerIDs(diffIDs []v1.Hash) []string {
	ids := make([]string, len(diffIDs))
	for i, id := range diffIDs {
		ids[i] = id.String()
	}
	return ids
}

// layerRoot is what of a layer is handed out, and completeMark is there when all of it is.
func layerRoot(dir, id string) string    { return filepath.Join(layerDir(dir, id), "fs") }
func completeMark(dir, id string) string { return layerRoot(dir, id) }

// checkFileSystem accepts any: scratches find out for themselves.
func checkFileSystem(string) error { return nil }

// storeLayer unpacks a layer aside and gives it its name when it is whole, and returns its size.
func (c *Cache) storeLayer(ctx context.Context, p *pull, l wantedLayer, left *budget) (size int64, err error) {
	ingest, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "ingest"), "")
	if err != nil {
		return 0, fault.Systemf("unpacking layer %s: %w", l.diffID, err)
	}
	defer c.discard(ingest)
	err = readLayer(ctx, p, l, left, func(content io.Reader) (err error) {
		size, err = unpack(ctx, filepath.Join(ingest, "fs"), content, left)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.diffID, err)
	}
	if err := failpoint.Hit("cache-unpacked"); err != nil {
		return 0, err
	}
	// A directory that lost its record, or layers to another hand, may be in the way.
	c.discardLayer(l.id)
	if err := os.Rename(ingest, layerDir(c.opts.Dir, l.id)); err != nil {
		return 0, fault.Systemf("storing layer %s: %w", l.diffID, err)
	}
	return size, nil
}

// discardLayer makes a layer vanish at once and deletes it in the background.
func (c *Cache) discardLayer(id string) { c.discard(layerDir(c.opts.Dir, id)) }

// deleteAll deletes what is in the trash.
func deleteAll(path string) error { return os.RemoveAll(path) }
