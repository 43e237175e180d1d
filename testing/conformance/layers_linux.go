package conformance

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/joblog"
)

// Layers is what gives bases and scratches, as the suite sees it: package cache through an adapter of a few
// lines. Registries on loopback must be usable, without credentials.
type Layers interface {
	// Base leases the base of an image to holder; layers are host directories, upper-most first.
	Base(ctx context.Context, image, pullPolicy, holder string, log *joblog.Log) (layers []string, pulled bool, err error)
	Release(holder string)
	NewScratch(ctx context.Context, id string, size int64) (dir string, err error)
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

// Disks is the power of Layers to give guests, which have a kernel of their own, disk images.
type Disks interface {
	// Disk leases the base as one read-only disk image.
	Disk(ctx context.Context, image, holder string) (path string, err error)
	NewScratchDisk(ctx context.Context, id string, size int64) (path string, err error)
}

// LayersOptions say where an instance lives. Dir and RunDir survive it.
type LayersOptions struct {
	Dir, RunDir string
	DiskLimit   int64 // bytes; 0: none
	// Registry is the host of a registry that may be talked to by plain HTTP.
	Registry string
}

// LayersEnv is one implementation of Layers with what the suite needs to know of it.
type LayersEnv struct {
	Open func(LayersOptions) (Layers, error)
	// KillPoints are failpoints (internal/failpoint) that a pull or the making of a scratch passes.
	KillPoints []string
	// Deviations names the subtests that this implementation is known to fail, with the reason. They are run all
	// the same: one that passes fails the suite.
	Deviations map[string]string
}

// TestLayers holds an implementation to what jobs, the reaper and administrators rely on. The suite executes
// the test binary again for what only a killed process leaves behind; there, this call plays that process. So
// the test that calls it must do nothing before. It needs root, overlayfs and mounts.
func TestLayers(t *testing.T, env LayersEnv) {
	if os.Getenv(layersChild) != "" {
		playLayersChild(t, env.Open)
		return
	}
	tests := []struct {
		name string
		run  func(w *layersWorld)
	}{
		{"a base is shared and no job can change it", layersBaseIsImmutable},
		{"a disk holds what the layers show", layersDisk},
		{"an image without layers is a base", layersEmptyImage},
		{"concurrent jobs pull an image once", layersPullOnce},
		{"shared layers are pulled once", layersShareLayers},
		{"a scratch is bounded", layersScratchIsBounded},
		{"a scratch is discarded", layersScratchIsDiscarded},
		{"a scratch in use is destroyed all the same", layersScratchInUse},
		{"a guest's scratch is discarded", layersScratchDisk},
		{"scratches do not meet", layersScratchesAreApart},
		{"a leased image stays", layersLeaseHolds},
		{"the least recently used goes first", layersCollectOldest},
		{"images survive a restart", layersSurviveRestart},
		{"a directory has one user", layersDirIsExclusive},
		{"a pull killed half-way leaves nothing", layersKilledInPull},
		{"a scratch of a killed process in a mount namespace that dies with it", layersKilledWithScratch(true)},
		{"a scratch of a killed process in a mount namespace that lives on", layersKilledWithScratch(false)},
	}
	var subtests []subtest
	for _, test := range tests {
		subtests = append(subtests, subtest{test.name, func(t testing.TB) { test.run(newLayersWorld(t, env.Open)) }})
	}
	for _, point := range env.KillPoints {
		subtests = append(subtests, subtest{"killed at " + point, func(t testing.TB) {
			layersKilledAt(newLayersWorld(t, env.Open), point)
		}})
	}
	for _, s := range subtests {
		t.Run(s.name, func(t *testing.T) { s.attempt(t, env.Deviations) })
	}
	checkDeviations(t, subtests, env.Deviations)
}

// layersWorld is a registry and a place for instances.
type layersWorld struct {
	testing.TB
	options  LayersOptions
	open     func(LayersOptions) (Layers, error)
	registry *layersRegistry
}

func newLayersWorld(t testing.TB, open func(LayersOptions) (Layers, error)) *layersWorld {
	registry := newLayersRegistry(t)
	w := &layersWorld{TB: t, options: LayersOptions{Dir: t.TempDir(), RunDir: t.TempDir(), Registry: registry.host()}, open: open,
		registry: registry}
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
	require.Implements(w, (*Disks)(nil), layers)
	path, err := layers.(Disks).Disk(w.Context(), image, holder)
	require.NoError(w, err)
	return path
}

func (w *layersWorld) base(layers Layers, image, holder string) []string {
	w.Helper()
	dirs, _, err := layers.Base(w.Context(), image, "if-not-present", holder, nil)
	require.NoError(w, err)
	return dirs
}
