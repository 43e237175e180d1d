package conformance

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/airlock-ci/airlock/internal/fault"
)

func layersBaseIsImmutable(w *layersWorld) {
	lower := layersLayer(w.TB, "etc/", "", "etc/conf", "original", "etc/old", "removed by the upper layer", "tmp/", "")
	upper := layersLayer(w.TB, "etc/", "", "etc/.wh.old", "", "etc/new", "of the upper layer")
	image := w.registry.push("base", lower, upper)
	layers := w.start()
	dirs := w.base(layers, image, "al-1")
	before := Fingerprint(w.TB, dirs...)
	for _, id := range []string{"al-1", "al-2"} {
		require.Equal(w, dirs, w.base(layers, image, id), "shared")
		root := w.mountJob(layers, dirs, id)
		require.Equal(w, "original", readString(w.TB, root, "etc/conf"))
		require.Equal(w, "of the upper layer", readString(w.TB, root, "etc/new"))
		require.NoFileExists(w, filepath.Join(root, "etc/old"), "whited out")
		require.NoFileExists(w, filepath.Join(root, "mine"), "of an earlier job")

		require.NoError(w, os.WriteFile(filepath.Join(root, "etc/conf"), []byte("changed"), 0o600))
		require.NoError(w, os.WriteFile(filepath.Join(root, "mine"), []byte("x"), 0o600))
		require.NoError(w, os.RemoveAll(filepath.Join(root, "tmp")))
		require.NoError(w, os.Chown(filepath.Join(root, "etc/new"), 7, 7))
		unmount(w.TB, root)
		require.NoError(w, layers.DestroyScratch(w.Context(), id))
	}
	require.Equal(w, before, Fingerprint(w.TB, dirs...))
}

func layersDisk(w *layersWorld) {
	lower := layersLayer(w.TB, "etc/", "", "etc/conf", "original", "etc/old", "removed by the upper layer")
	upper := layersLayer(w.TB, "etc/", "", "etc/.wh.old", "", "etc/new", "of the upper layer")
	image := w.registry.push("base", lower, upper)
	layers := w.start()
	disk := w.disk(layers, image, "al-1")
	require.Equal(w, disk, w.disk(layers, image, "al-2"), "shared")
	root := w.mountDisk(disk)
	require.Equal(w, "original", readString(w.TB, root, "etc/conf"))
	require.Equal(w, "of the upper layer", readString(w.TB, root, "etc/new"))
	require.NoFileExists(w, filepath.Join(root, "etc/old"), "whited out")
	require.Equal(w, 1, w.registry.timesSent(lower))

	for _, holder := range []string{"al-1", "al-2"} {
		_, err := layers.Remove(w.Context(), image)
		require.Equal(w, fault.Admin, fault.ClassOf(err), "leased: %v", err)
		require.FileExists(w, disk)
		layers.Release(holder)
	}
	_, err := layers.Remove(w.Context(), image)
	require.NoError(w, err)
	require.NoFileExists(w, disk)
	require.Equal(w, "original", readString(w.TB, root, "etc/conf"), "its last user keeps it")
	require.DirExists(w, w.mountDisk(w.disk(layers, w.registry.push("nothing"), "al-3")), "without any layers")
}

func layersEmptyImage(w *layersWorld) {
	layers := w.start()
	require.Empty(w, w.base(layers, w.registry.push("nothing"), "al-1"))
	require.Empty(w, w.base(layers, w.registry.push("nothing"), "al-2"), "again, from the cache")
}

func layersPullOnce(w *layersWorld) {
	layer := layersLayer(w.TB, "large", incompressible(1<<20))
	image := w.registry.push("popular", layer)
	layers := w.start()
	var group errgroup.Group
	var pulled atomic.Int32
	var mu sync.Mutex
	var all [][]string
	for i := range 8 {
		group.Go(func() error {
			dirs, here, err := layers.Base(w.Context(), image, "always", fmt.Sprint("al-", i), nil)
			if here {
				pulled.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, dirs)
			return err
		})
	}
	require.NoError(w, group.Wait())
	require.Equal(w, 1, w.registry.timesSent(layer))
	require.NotZero(w, pulled.Load())
	for _, dirs := range all {
		require.Equal(w, all[0], dirs)
	}
	_, here, err := layers.Base(w.Context(), image, "always", "al-9", nil)
	require.NoError(w, err)
	require.False(w, here, "from the cache")
	require.Equal(w, 1, w.registry.timesSent(layer))
}

func layersShareLayers(w *layersWorld) {
	shared := layersLayer(w.TB, "shared", incompressible(1<<20))
	one := w.registry.push("one", shared, layersLayer(w.TB, "one", "1"))
	two := w.registry.push("two", shared, layersLayer(w.TB, "two", "2"))
	layers := w.start()
	var group errgroup.Group
	for _, image := range []string{one, two} {
		group.Go(func() error {
			_, _, err := layers.Base(w.Context(), image, "if-not-present", "al-1", nil)
			return err
		})
	}
	require.NoError(w, group.Wait())
	require.Equal(w, 1, w.registry.timesSent(shared))
	onesDirs, twosDirs := w.base(layers, one, "al-1"), w.base(layers, two, "al-1")
	require.Equal(w, onesDirs[1], twosDirs[1])
	require.NotEqual(w, onesDirs[0], twosDirs[0])

	layers.Release("al-1")
	_, err := layers.Remove(w.Context(), one)
	require.NoError(w, err)
	require.FileExists(w, filepath.Join(twosDirs[1], "shared"), "the other image still has it")
}

func layersLeaseHolds(w *layersWorld) {
	image := w.registry.push("leased", layersLayer(w.TB, "f", incompressible(1<<20)))
	layers := w.start()
	dirs := w.base(layers, image, "al-1")
	w.base(layers, image, "al-2")
	for _, holder := range []string{"al-1", "al-2"} {
		_, err := layers.Remove(w.Context(), image)
		require.Equal(w, fault.Admin, fault.ClassOf(err), "%v", err)
		require.FileExists(w, filepath.Join(dirs[0], "f"))
		layers.Release(holder)
		layers.Release(holder) // again is nothing
	}
	freed, err := layers.Remove(w.Context(), image)
	require.NoError(w, err)
	require.GreaterOrEqual(w, freed, int64(1<<20))
	require.NoDirExists(w, dirs[0])
	_, err = layers.Remove(w.Context(), image)
	require.Equal(w, fault.Admin, fault.ClassOf(err), "there is none any more: %v", err)
	require.FileExists(w, filepath.Join(w.base(layers, image, "al-3")[0], "f"), "pulled again")
}

func layersCollectOldest(w *layersWorld) {
	w.options.DiskLimit = 5 << 19 // two and a half images
	layers := w.start()
	var images []string
	var dirs []string
	for i := range 4 {
		image := w.registry.push(fmt.Sprint("image", i), layersLayer(w.TB, "f", incompressible(1<<20)))
		images = append(images, image)
		dirs = append(dirs, w.base(layers, image, fmt.Sprint("al-", i))[0])
	}
	for i := range 4 {
		require.DirExists(w, dirs[i], "leased, whatever the limit")
	}
	for i := 3; i >= 1; i-- { // their end is their last use
		layers.Release(fmt.Sprint("al-", i))
	}
	w.base(layers, images[3], "al-9") // and this is used again
	layers.Release("al-9")
	freed, err := layers.Collect(w.Context())
	require.NoError(w, err)
	require.GreaterOrEqual(w, freed, int64(2<<20))
	require.DirExists(w, dirs[0], "the oldest, but leased")
	require.NoDirExists(w, dirs[1])
	require.NoDirExists(w, dirs[2])
	require.DirExists(w, dirs[3], "the last used")
	require.LessOrEqual(w, layers.Used(), w.options.DiskLimit)
	freed, err = layers.Collect(w.Context())
	require.NoError(w, err)
	require.Zero(w, freed)
}

func layersSurviveRestart(w *layersWorld) {
	layer := layersLayer(w.TB, "f", "x")
	image := w.registry.push("kept", layer)
	first, err := w.open(w.options)
	require.NoError(w, err)
	dirs := w.base(first, image, "al-1")
	require.NoError(w, first.Close())
	second := w.start()
	require.Equal(w, dirs, w.base(second, image, "al-2"))
	require.Equal(w, 1, w.registry.timesSent(layer))
	require.Equal(w, "x", readString(w.TB, dirs[0], "f"))
	second.Release("al-2")
	_, err = second.Remove(w.Context(), image)
	require.NoError(w, err, "the lease ended with its process")
}

func layersDirIsExclusive(w *layersWorld) {
	w.start()
	_, err := w.open(w.options)
	require.Equal(w, fault.Admin, fault.ClassOf(err), "%v", err)
	require.ErrorContains(w, err, w.options.Dir)
}

// incompressible returns content of which a registry sends every byte.
func incompressible(size int) string {
	var text strings.Builder
	for text.Len() < size {
		fmt.Fprintf(&text, "%x", rand.Uint64())
	}
	return text.String()[:size]
}

func readString(t testing.TB, root, name string) string {
	content, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(content)
}
