package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stretchr/testify/require"
)

const scratchSize = 64 << 20

func layersScratchIsBounded(w *layersWorld) {
	layers := w.start()
	dir, err := layers.NewScratch(w.Context(), "al-full", scratchSize)
	require.NoError(w, err)
	err = os.WriteFile(filepath.Join(dir, "f"), make([]byte, scratchSize+1), 0o600)
	require.ErrorIs(w, err, syscall.ENOSPC)
	info, err := os.Stat(filepath.Join(dir, "f"))
	require.NoError(w, err)
	require.Greater(w, info.Size(), int64(scratchSize*3/4), "nearly all of it was usable")

	other, err := layers.NewScratch(w.Context(), "al-other", scratchSize)
	require.NoError(w, err)
	require.NoError(w, os.WriteFile(filepath.Join(other, "f"), make([]byte, 8<<20), 0o600), "full for one is not full for all")
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-full"))
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-other"))
}

func layersScratchIsDiscarded(w *layersWorld) {
	layers := w.start()
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-never-was"))
	for range 2 { // the second of an id finds nothing of the first
		dir, err := layers.NewScratch(w.Context(), "al-1", scratchSize)
		require.NoError(w, err)
		entries, err := os.ReadDir(dir)
		require.NoError(w, err)
		require.Empty(w, entries)
		info, err := os.Stat(dir)
		require.NoError(w, err)
		require.Equal(w, os.FileMode(0o755), info.Mode().Perm())
		require.NoError(w, os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600))

		_, err = layers.NewScratch(w.Context(), "al-1", scratchSize)
		require.Error(w, err, "one id, one scratch")
		require.FileExists(w, filepath.Join(dir, "secret"), "and the failure took nothing from it")
		ids, err := layers.Scratches(w.Context())
		require.NoError(w, err)
		require.Equal(w, []string{"al-1"}, ids)

		require.NoError(w, layers.DestroyScratch(w.Context(), "al-1"))
		require.NoError(w, layers.DestroyScratch(w.Context(), "al-1"), "twice is once")
		require.NoFileExists(w, filepath.Join(dir, "secret"))
		ids, err = layers.Scratches(w.Context())
		require.NoError(w, err)
		require.Empty(w, ids)
	}
	for _, id := range []string{"", "..", "a/b", "UPPER", "-" + string(make([]byte, 40))} {
		_, err := layers.NewScratch(w.Context(), id, scratchSize)
		require.Error(w, err, "id %q", id)
		require.Error(w, layers.DestroyScratch(w.Context(), id), "id %q", id)
	}
}

func layersScratchInUse(w *layersWorld) {
	layers := w.start()
	dir, err := layers.NewScratch(w.Context(), "al-1", scratchSize)
	require.NoError(w, err)
	f, err := os.Create(filepath.Join(dir, "open"))
	require.NoError(w, err)
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-1"))
	ids, err := layers.Scratches(w.Context())
	require.NoError(w, err)
	require.Empty(w, ids)
	_, err = f.Write(make([]byte, 1<<20))
	if err == nil {
		err = f.Sync()
	}
	require.True(w, err == nil || errors.Is(err, syscall.EIO), "%v", err)
	require.NoError(w, errors.Join(f.Close()), "its last user goes; so does what it held (checked at the end)")
}

func layersScratchesAreApart(w *layersWorld) {
	layers := w.start()
	one, err := layers.NewScratch(w.Context(), "al-1", scratchSize)
	require.NoError(w, err)
	two, err := layers.NewScratch(w.Context(), "al-2", scratchSize)
	require.NoError(w, err)
	require.NoError(w, os.WriteFile(filepath.Join(one, "f"), []byte("1"), 0o600))
	require.NoFileExists(w, filepath.Join(two, "f"))
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-1"))
	require.NoError(w, os.WriteFile(filepath.Join(two, "f"), []byte("2"), 0o600))
	require.NoError(w, layers.DestroyScratch(w.Context(), "al-2"))
}

func layersScratchDisk(w *layersWorld) {
	layers := w.start()
	require.Implements(w, (*Disks)(nil), layers)
	for range 2 { // the second of an id finds nothing of the first
		disk, err := layers.(Disks).NewScratchDisk(w.Context(), "al-1", scratchSize)
		require.NoError(w, err)
		root := w.mountWritable(disk)
		entries, err := os.ReadDir(root)
		require.NoError(w, err)
		require.Len(w, entries, 1, "lost+found")
		err = os.WriteFile(filepath.Join(root, "f"), make([]byte, scratchSize+1), 0o600)
		require.ErrorIs(w, err, syscall.ENOSPC)
		unmount(w.TB, root)
		_, err = layers.NewScratch(w.Context(), "al-1", scratchSize)
		require.Error(w, err, "one id, one scratch")
		require.FileExists(w, disk)
		require.NoError(w, layers.DestroyScratch(w.Context(), "al-1"))
		require.NoFileExists(w, disk)
		ids, err := layers.Scratches(w.Context())
		require.NoError(w, err)
		require.Empty(w, ids)
	}
}
