package cache_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestScratchKinds(t *testing.T) {
	for _, test := range []struct {
		kind    cache.ScratchKind
		size    int64
		mounted string
	}{
		{cache.ScratchLoop, 32 << 20, "ext4"}, {cache.ScratchTmpfs, 32 << 20, "tmpfs"},
		{cache.ScratchDirectory, 32 << 20, ""}, {cache.ScratchLoop, 0, ""}, {cache.ScratchTmpfs, 0, ""},
	} {
		t.Run(fmt.Sprint(test.kind, test.size), func(t *testing.T) {
			c := open(t, func(o *cache.Options) { o.Scratch = test.kind })
			scratch, err := c.NewScratch(t.Context(), cache.ScratchRequest{ID: "al-1", Size: test.size})
			require.NoError(t, err)
			before, err := c.ScratchUsage(t.Context(), "al-1")
			require.NoError(t, err)
			err = os.WriteFile(filepath.Join(scratch.Dir, "f"), []byte(strings.Repeat("x", 33<<20)), 0o600)
			mounts, readErr := os.ReadFile("/proc/self/mounts")
			require.NoError(t, readErr)
			if test.mounted == "" {
				require.NoError(t, err)
				require.NotContains(t, string(mounts), scratch.Dir)
			} else {
				require.ErrorIs(t, err, syscall.ENOSPC)
				require.Regexp(t, scratch.Dir+" "+test.mounted+" [a-z,]*nodev", string(mounts))
			}
			used, err := c.ScratchUsage(t.Context(), "al-1")
			require.NoError(t, err)
			require.Greater(t, used-before, int64(20<<20))
			require.NoError(t, c.DestroyScratch(t.Context(), "al-1"))
			require.NoDirExists(t, scratch.Dir)
			_, err = c.ScratchUsage(t.Context(), "al-1")
			require.Error(t, err)
		})
	}
	_, err := cache.New(cache.Options{Dir: t.TempDir(), RunDir: t.TempDir(), Scratch: "floppy"})
	require.ErrorContains(t, err, "use loop, tmpfs or directory")
	_, err = open(t).NewScratch(t.Context(), cache.ScratchRequest{ID: "al-1", Size: 1 << 20})
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestScratchesNeedMkfs(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := cache.New(cache.Options{Dir: t.TempDir(), RunDir: t.TempDir()})
	require.ErrorContains(t, err, "install e2fsprogs")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestManyScratchesAtOnce(t *testing.T) {
	c := open(t, func(o *cache.Options) { o.ScratchSize = 64 << 20 })
	var group errgroup.Group
	for i := range 12 {
		group.Go(func() error {
			id := fmt.Sprint("al-", i)
			scratch, err := c.NewScratch(t.Context(), cache.ScratchRequest{ID: id, Size: 64 << 20})
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(scratch.Dir, "id"), []byte(id), 0o600); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
			content, err := os.ReadFile(filepath.Join(scratch.Dir, "id"))
			if err != nil || string(content) != id {
				return fmt.Errorf("%s holds %q: %w", id, content, err)
			}
			return c.DestroyScratch(t.Context(), id)
		})
	}
	require.NoError(t, group.Wait())
}

// What a job deletes must be free for it again, and a scratch takes space on disk only as it fills.
func TestScratchIsSparse(t *testing.T) {
	dir := t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	scratch, err := c.NewScratch(t.Context(), cache.ScratchRequest{ID: "al-1", Size: 10 << 30})
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "scratch/al-1/disk.img"), &st))
	require.EqualValues(t, 10<<30, st.Size)
	require.Less(t, st.Blocks*512, int64(8<<20))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(scratch.Dir, &fs))
	require.Greater(t, int64(fs.Bavail)*fs.Bsize, int64(9<<30))
	require.NoError(t, c.DestroyScratch(t.Context(), "al-1"))
}

// A loop device may outlive everything else: held open, its file deleted by another hand.
func TestScratchWhoseDeviceIsHeldOpen(t *testing.T) {
	dir, run := t.TempDir(), t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir, o.RunDir = dir, run })
	scratch, err := c.NewScratch(t.Context(), cache.ScratchRequest{ID: "al-1", Size: 32 << 20})
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(scratch.Dir, &st))
	device, err := os.Open(fmt.Sprintf("/dev/loop%d", unix.Minor(st.Dev)))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "scratch/al-1/disk.img")))
	require.NoError(t, c.DestroyScratch(t.Context(), "al-1"))
	require.NoError(t, device.Close())
	require.Eventually(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/sys/dev/block/7:%d/loop/backing_file", unix.Minor(st.Dev)))
		return os.IsNotExist(err)
	}, 20*time.Second, 5*time.Millisecond)
}

func BenchmarkScratch(b *testing.B) {
	const size = 10 << 30
	c := open(b, func(o *cache.Options) { o.ScratchSize = size })
	var made, destroyed time.Duration
	for b.Loop() {
		start := time.Now()
		_, err := c.NewScratch(b.Context(), cache.ScratchRequest{ID: "al-1", Size: size})
		require.NoError(b, err)
		made += time.Since(start)
		start = time.Now()
		require.NoError(b, c.DestroyScratch(b.Context(), "al-1"))
		destroyed += time.Since(start)
	}
	b.ReportMetric(float64(made.Microseconds())/float64(b.N)/1000, "ms/new")
	b.ReportMetric(float64(destroyed.Microseconds())/float64(b.N)/1000, "ms/destroy")
}

func BenchmarkCachedBase(b *testing.B) {
	h, c := newHub(b), open(b)
	image := h.push("app:1", imageOf(b, layerOf(b, nil, "f", "1")))
	get(b, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	for b.Loop() {
		get(b, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1"})
	}
}
