//go:build !linux && !windows

package cache

import (
	"context"
	"io/fs"
	"os"
	"runtime"

	"github.com/airlock-ci/airlock/internal/fault"
)

func errUnsupported() error {
	return fault.Adminf("this cache does not work on %s: layers and scratches are made on Linux only", runtime.GOOS)
}

func lockDir(string) (*os.File, error) { return nil, errUnsupported() }

func syncFileSystem(string) error { return errUnsupported() }

const parallelLayers = 1

type platformState struct{}

func layerRoot(dir, id string) string    { return layerDir(dir, id) }
func completeMark(dir, id string) string { return layerDir(dir, id) }

func checkFileSystem(string) error { return errUnsupported() }

func (c *Cache) storeLayer(context.Context, *pull, wantedLayer, *budget) (storedLayer, error) {
	return storedLayer{}, errUnsupported()
}

func (c *Cache) discardLayer(id string) { c.discard(layerDir(c.opts.Dir, id)) }

func deleteAll(path string) error { return os.RemoveAll(path) }

func writeDisk(context.Context, *os.File, []string, func(Use) error) error { return errUnsupported() }

const countsInodes = false

func freeOf(string) (free, total Use, err error) { return Use{}, Use{}, errUnsupported() }

func (c *Cache) measureLayer(context.Context, string) (Use, error) { return Use{}, errUnsupported() }

func allocated(info fs.FileInfo) int64 { return info.Size() }

type scratches struct{}

func newScratches(*Cache) (*scratches, error) { return nil, errUnsupported() }

func (s *scratches) create(context.Context, ScratchRequest) (Scratch, error) {
	return Scratch{}, errUnsupported()
}

func (s *scratches) destroy(context.Context, string) error { return errUnsupported() }

func (s *scratches) usage(string) (int64, error) { return 0, errUnsupported() }
