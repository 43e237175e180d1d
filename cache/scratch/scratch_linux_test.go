package scratch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/trash"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// open returns scratches in directories of their own, unless the test changes that.
func open(t testing.TB, change ...func(*scratch.Options)) *scratch.Scratches {
	t.Helper()
	var background sync.WaitGroup
	life, end := context.WithCancelCause(context.Background())
	options := scratch.Options{Dir: t.TempDir(), MountDir: t.TempDir(), Pool: t.TempDir(), Kind: scratch.Loop,
		Trash: trash.New(t.TempDir(), os.RemoveAll, &background, zerolog.Nop()), Life: life, Background: &background, Log: zerolog.Nop()}
	for _, c := range change {
		c(&options)
	}
	t.Cleanup(func() { // before the directories go
		end(errors.New("the test has ended"))
		background.Wait()
	})
	scratches, err := scratch.New(options)
	require.NoError(t, err)
	return scratches
}

func TestScratchKinds(t *testing.T) {
	for _, test := range []struct {
		kind    scratch.Kind
		size    int64
		mounted string
	}{
		{scratch.Loop, 32 << 20, "ext4"}, {scratch.Tmpfs, 32 << 20, "tmpfs"},
		{scratch.Directory, 32 << 20, ""}, {scratch.Loop, 0, ""}, {scratch.Tmpfs, 0, ""},
	} {
		t.Run(fmt.Sprint(test.kind, test.size), func(t *testing.T) {
			c := open(t, func(o *scratch.Options) { o.Kind = test.kind })
			made, err := c.Make(t.Context(), scratch.Request{ID: "al-1", Size: test.size})
			require.NoError(t, err)
			before, err := c.Usage("al-1")
			require.NoError(t, err)
			err = os.WriteFile(filepath.Join(made.Dir, "f"), []byte(strings.Repeat("x", 33<<20)), 0o600)
			mounts, readErr := os.ReadFile("/proc/self/mounts")
			require.NoError(t, readErr)
			if test.mounted == "" {
				require.NoError(t, err)
				require.NotContains(t, string(mounts), made.Dir)
			} else {
				require.ErrorIs(t, err, syscall.ENOSPC)
				require.Regexp(t, made.Dir+" "+test.mounted+" [a-z,]*nodev", string(mounts))
			}
			used, err := c.Usage("al-1")
			require.NoError(t, err)
			require.Greater(t, used-before, int64(20<<20))
			require.NoError(t, c.Destroy(t.Context(), "al-1"))
			require.NoDirExists(t, made.Dir)
			_, err = c.Usage("al-1")
			require.Error(t, err)
		})
	}
	_, err := scratch.New(scratch.Options{Kind: "floppy"})
	require.ErrorContains(t, err, "use loop, tmpfs or directory")
	_, err = open(t).Make(t.Context(), scratch.Request{ID: "al-1", Size: 1 << 20})
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestScratchesNeedMkfs(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := scratch.New(scratch.Options{Kind: scratch.Loop})
	require.ErrorContains(t, err, "install e2fsprogs")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestManyScratchesAtOnce(t *testing.T) {
	c := open(t, func(o *scratch.Options) { o.ReadySize = 64 << 20 })
	var group errgroup.Group
	for i := range 12 {
		group.Go(func() error {
			id := fmt.Sprint("al-", i)
			made, err := c.Make(t.Context(), scratch.Request{ID: id, Size: 64 << 20})
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(made.Dir, "id"), []byte(id), 0o600); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
			content, err := os.ReadFile(filepath.Join(made.Dir, "id"))
			if err != nil || string(content) != id {
				return fmt.Errorf("%s holds %q: %w", id, content, err)
			}
			return c.Destroy(t.Context(), id)
		})
	}
	require.NoError(t, group.Wait())
}

// What a job deletes must be free for it again, and a scratch takes space on disk only as it fills.
func TestScratchIsSparse(t *testing.T) {
	dir := t.TempDir()
	c := open(t, func(o *scratch.Options) { o.Dir = dir })
	made, err := c.Make(t.Context(), scratch.Request{ID: "al-1", Size: 10 << 30})
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "al-1/disk.img"), &st))
	require.EqualValues(t, 10<<30, st.Size)
	require.Less(t, st.Blocks*512, int64(8<<20))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(made.Dir, &fs))
	require.Greater(t, int64(fs.Bavail)*fs.Bsize, int64(9<<30))
	require.NoError(t, c.Destroy(t.Context(), "al-1"))
}

// A loop device may outlive everything else: held open, its file deleted by another hand.
func TestScratchWhoseDeviceIsHeldOpen(t *testing.T) {
	dir := t.TempDir()
	c := open(t, func(o *scratch.Options) { o.Dir = dir })
	made, err := c.Make(t.Context(), scratch.Request{ID: "al-1", Size: 32 << 20})
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(made.Dir, &st))
	device, err := os.Open(fmt.Sprintf("/dev/loop%d", unix.Minor(st.Dev)))
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "al-1/disk.img")))
	require.NoError(t, c.Destroy(t.Context(), "al-1"))
	require.NoError(t, device.Close())
	require.Eventually(t, func() bool {
		_, err := os.Stat(fmt.Sprintf("/sys/dev/block/7:%d/loop/backing_file", unix.Minor(st.Dev)))
		return os.IsNotExist(err)
	}, 20*time.Second, 5*time.Millisecond)
}

func BenchmarkScratch(b *testing.B) {
	const size = 10 << 30
	c := open(b, func(o *scratch.Options) { o.ReadySize = size })
	var making, destroying time.Duration
	for b.Loop() {
		start := time.Now()
		_, err := c.Make(b.Context(), scratch.Request{ID: "al-1", Size: size})
		require.NoError(b, err)
		making += time.Since(start)
		start = time.Now()
		require.NoError(b, c.Destroy(b.Context(), "al-1"))
		destroying += time.Since(start)
	}
	b.ReportMetric(float64(making.Microseconds())/float64(b.N)/1000, "ms/new")
	b.ReportMetric(float64(destroying.Microseconds())/float64(b.N)/1000, "ms/destroy")
}

func TestScratchDisks(t *testing.T) {
	for _, kind := range []scratch.Kind{scratch.Loop, scratch.Tmpfs, scratch.Directory} {
		t.Run(string(kind), func(t *testing.T) {
			c := open(t, func(o *scratch.Options) { o.Kind = kind })
			for id, size := range map[string]int64{"al-small": 32 << 20, "al-large": 20 << 30, "al-unbound": 0} {
				made, err := c.Make(t.Context(), scratch.Request{ID: id, Size: size, Disk: true})
				require.NoError(t, err)
				require.Empty(t, made.Dir)
				info, err := os.Stat(made.Disk)
				require.NoError(t, err)
				require.EqualValues(t, disk.Size, info.Size())
				if size == 0 {
					size = disk.Size
				}
				require.EqualValues(t, size, superblockSize(t, made.Disk))
				used, err := c.Usage(id)
				require.NoError(t, err)
				require.Less(t, used, int64(16<<20))
			}
			ids, err := c.List()
			require.NoError(t, err)
			require.Equal(t, []string{"al-large", "al-small", "al-unbound"}, ids)
			for _, id := range ids {
				require.NoError(t, c.Destroy(t.Context(), id))
			}
			ids, err = c.List()
			require.NoError(t, err)
			require.Empty(t, ids)
			_, err = c.Make(t.Context(), scratch.Request{ID: "al-1", Size: disk.Size + 1, Disk: true})
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
}

// superblockSize is the size of an ext4 file system: s_blocks_count_lo and s_log_block_size.
func superblockSize(t *testing.T, disk string) int64 {
	f, err := os.Open(disk)
	require.NoError(t, err)
	defer f.Close()
	super := make([]byte, 1024)
	_, err = f.ReadAt(super, 1024)
	require.NoError(t, err)
	little := func(at int) int64 {
		return int64(super[at]) | int64(super[at+1])<<8 | int64(super[at+2])<<16 | int64(super[at+3])<<24
	}
	return little(4) << (10 + little(24))
}

func BenchmarkScratchDisk(b *testing.B) {
	c := open(b, func(o *scratch.Options) { o.ReadySize = 20 << 30 })
	time.Sleep(time.Second) // some are ready
	for b.Loop() {
		_, err := c.Make(b.Context(), scratch.Request{ID: "al-1", Size: 20 << 30, Disk: true})
		require.NoError(b, err)
		require.NoError(b, c.Destroy(b.Context(), "al-1"))
	}
}
