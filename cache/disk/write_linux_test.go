package disk

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestDisksThatCannotBeMade(t *testing.T) {
	write := func(ctx context.Context, path string, layers []string) error {
		file, err := os.Create(path)
		require.NoError(t, err)
		defer file.Close()
		return Write(ctx, file, layers, roomForAll)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	t.Run("what no disk can hold", func(t *testing.T) {
		err := write(t.Context(), disk, layerWith(t, "lost+found", "is a file"))
		require.Equal(t, fault.Author, fault.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "lost+found")
	})
	t.Run("a file that is too large", func(t *testing.T) {
		layer := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(layer, "vast"), nil, 0o600))
		require.NoError(t, os.Truncate(filepath.Join(layer, "vast"), maxDiskFile+1))
		err := write(t.Context(), disk, []string{layer})
		require.Equal(t, fault.Author, fault.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, `"vast" has 32 GiB`)
	})
	t.Run("a layer that is gone", func(t *testing.T) {
		err := write(t.Context(), disk, []string{filepath.Join(t.TempDir(), "none")})
		require.Equal(t, fault.System, fault.ClassOf(err), "%v", err)
	})
	large := layerWith(t, "large", strings.Repeat("x", 8<<20))
	t.Run("a full disk", func(t *testing.T) {
		small := t.TempDir()
		require.NoError(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"))
		defer func() { require.NoError(t, unix.Unmount(small, 0)) }()
		err := write(t.Context(), filepath.Join(small, "disk"), large)
		require.Equal(t, fault.System, fault.ClassOf(err), "%v", err)
		require.ErrorIs(t, err, unix.ENOSPC)
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(fmt.Errorf("the job was cancelled"))
		err := write(ctx, disk, large)
		require.Equal(t, fault.System, fault.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "the job was cancelled")
	})
}

// layerWith returns a layer that holds one file.
func layerWith(t *testing.T, name, content string) []string {
	t.Helper()
	layer := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(layer, name), []byte(content), 0o644))
	return []string{layer}
}

// What is written twice, in whatever pieces, reads back as written last.
func TestSparseFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	s := &sparseFile{file: f, room: roomForAll}
	want := make([]byte, 1<<20)
	write := func(at int, piece []byte) {
		_, err := s.Seek(int64(at), io.SeekStart)
		require.NoError(t, err)
		n, err := s.Write(piece)
		require.NoError(t, err)
		require.Len(t, piece, n)
		copy(want[at:], piece)
	}
	ones := func(n int) []byte { return []byte(strings.Repeat("1", n)) }
	write(0, make([]byte, 10_000))
	write(10_000, append(append(ones(5000), make([]byte, 300_000)...), ones(1)...))
	write(12_000, make([]byte, 8192)) // zeros over content
	write(1<<20-1, ones(1))
	write(100_000, ones(3))
	got, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, want, got)
	info, err := f.Stat()
	require.NoError(t, err)
	require.Less(t, space.Allocated(info), int64(64<<10))
}

func BenchmarkDisk(b *testing.B) {
	layer := os.Getenv("AIRLOCK_BENCH_ROOT") // a directory tree as a container's root
	if layer == "" {
		layer = "/usr/share"
	}
	for b.Loop() {
		file, err := os.Create(filepath.Join(b.TempDir(), "disk"))
		require.NoError(b, err)
		require.NoError(b, Write(b.Context(), file, []string{layer}, roomForAll))
		size, err := Finish(file)
		require.NoError(b, err)
		b.ReportMetric(float64(size)/(1<<20), "MiB")
		require.NoError(b, file.Close())
	}
}

func roomForAll(space.Use) error { return nil }
