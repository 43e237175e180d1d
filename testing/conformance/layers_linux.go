package conformance

import (
	"context"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Layers is what gives bases and scratches, as the suite sees it: package cache through an adapter of a few
// lines. Registries on loopback must be usable, without credentials.
type Layers interface {
	// Base leases the base of an image to holder; layers are host directories, upper-most first.
	Base(ctx context.Context, image, pullPolicy, holder string, progress io.Writer) (layers []string, pulled bool, err error)
	// Disk leases the base as one read-only disk image.
	Disk(ctx context.Context, image, holder string) (path string, err error)
	Release(holder string)
	NewScratch(ctx context.Context, id string, size int64) (dir string, err error)
	// NewScratchDisk makes the scratch of a guest.
	NewScratchDisk(ctx context.Context, id string, size int64) (path string, err error)
	DestroyScratch(ctx context.Context, id string) error
	Scratches(ctx context.Context) ([]string, error)

	// Images is how many images are kept.
	Images(ctx context.Context) (int, error)
	Remove(ctx context.Context, image string) (freed int64, err error)
	Collect(ctx context.Context) (freed int64, err error)
	// Used is what all layers take together, in bytes.
	Used() int64
	Close() error
}

// LayersOptions say where an instance lives. Dir and RunDir survive it.
type LayersOptions struct {
	Dir, RunDir string
	DiskLimit   int64 // bytes; 0: none
}

// TestLayers holds an implementation to what jobs, the reaper and administrators rely on. The suite executes
// the test binary again for what only a killed process leaves behind; there, this call plays that process. So
// the test that calls it must do nothing before. Kill points are failpoints (executor/api/failpoint) that a
// pull or the making of a scratch passes. It needs root, overlayfs and mounts.
func TestLayers(t *testing.T, open func(LayersOptions) (Layers, error), killPoints ...string) {
	if os.Getenv(layersChild) != "" {
		playLayersChild(t, open)
		return
	}
	newWorld := func(t *testing.T) *layersWorld { return newLayersWorld(t, open) }
	t.Run("a base is shared and no job can change it", func(t *testing.T) { layersBaseIsImmutable(newWorld(t)) })
	t.Run("a disk holds what the layers show", func(t *testing.T) { layersDisk(newWorld(t)) })
	t.Run("an image without layers is a base", func(t *testing.T) { layersEmptyImage(newWorld(t)) })
	t.Run("concurrent jobs pull an image once", func(t *testing.T) { layersPullOnce(newWorld(t)) })
	t.Run("shared layers are pulled once", func(t *testing.T) { layersShareLayers(newWorld(t)) })
	t.Run("a scratch is bounded", func(t *testing.T) { layersScratchIsBounded(newWorld(t)) })
	t.Run("a scratch is discarded", func(t *testing.T) { layersScratchIsDiscarded(newWorld(t)) })
	t.Run("a scratch in use is destroyed all the same", func(t *testing.T) { layersScratchInUse(newWorld(t)) })
	t.Run("a guest's scratch is discarded", func(t *testing.T) { layersScratchDisk(newWorld(t)) })
	t.Run("scratches do not meet", func(t *testing.T) { layersScratchesAreApart(newWorld(t)) })
	t.Run("a leased image stays", func(t *testing.T) { layersLeaseHolds(newWorld(t)) })
	t.Run("the least recently used goes first", func(t *testing.T) { layersCollectOldest(newWorld(t)) })
	t.Run("images survive a restart", func(t *testing.T) { layersSurviveRestart(newWorld(t)) })
	t.Run("a directory has one user", func(t *testing.T) { layersDirIsExclusive(newWorld(t)) })
	t.Run("a pull killed half-way leaves nothing", func(t *testing.T) { layersKilledInPull(newWorld(t)) })
	for _, namespace := range []string{"that dies with it", "that lives on"} {
		t.Run("a scratch of a killed process in a mount namespace "+namespace, func(t *testing.T) {
			layersKilledWithScratch(newWorld(t), namespace == "that dies with it")
		})
	}
	for _, point := range killPoints {
		t.Run("killed at "+point, func(t *testing.T) { layersKilledAt(newWorld(t), point) })
	}
}

// layersWorld is a registry and a place for instances.
type layersWorld struct {
	*testing.T
	options  LayersOptions
	open     func(LayersOptions) (Layers, error)
	registry *layersRegistry
}

func newLayersWorld(t *testing.T, open func(LayersOptions) (Layers, error)) *layersWorld {
	w := &layersWorld{T: t, options: LayersOptions{Dir: t.TempDir(), RunDir: t.TempDir()}, open: open,
		registry: newLayersRegistry(t)}
	t.Cleanup(w.requireNothingLeft)
	return w
}

// start opens an instance that ends with the test.
func (w *layersWorld) start() Layers {
	w.Helper()
	layers, err := w.open(w.options)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, layers.Close()) })
	return layers
}

func (w *layersWorld) disk(layers Layers, image, holder string) string {
	w.Helper()
	path, err := layers.Disk(w.Context(), image, holder)
	require.NoError(w, err)
	return path
}

func (w *layersWorld) base(layers Layers, image, holder string) []string {
	w.Helper()
	dirs, _, err := layers.Base(w.Context(), image, "if-not-present", holder, io.Discard)
	require.NoError(w, err)
	return dirs
}
