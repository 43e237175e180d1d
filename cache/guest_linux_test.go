package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

func forDisk(image, holder string) cache.Request {
	return cache.Request{Image: image, PullPolicy: "if-not-present", Holder: holder, Form: cache.FormDisk}
}

// used is what a cache takes.
func used(t testing.TB, c *cache.Cache) cache.Use {
	t.Helper()
	usage, err := c.Usage()
	require.NoError(t, err)
	return usage.Used
}

// disksIn lists the disks of a cache directory, and what is half made.
func disksIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	for _, sub := range []string{"disks", "ingest"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, sub+"/"+e.Name())
		}
	}
	return names
}

func TestDisksAreMadeOnce(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	lower, upper := layerOf(t, nil, "lower", strings.Repeat("1", 1<<20)), layerOf(t, nil, "upper", "2")
	image, other := h.push("app:1", imageOf(t, lower, upper)), h.push("other:1", imageOf(t, upper, lower))
	base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-0"})
	require.Empty(t, base.Disk, "nobody asked for one")
	require.Empty(t, disksIn(t, dir))

	var group errgroup.Group
	disks, logs := make([]string, 8), make([]bytes.Buffer, 8)
	for i := range disks {
		group.Go(func() error {
			base, err := c.Base(t.Context(), forDisk(image, fmt.Sprint("al-", i)), joblog.New(&logs[i]))
			disks[i] = base.Disk
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Len(t, disksIn(t, dir), 1)
	for _, disk := range disks {
		require.Equal(t, disks[0], disk)
	}
	require.Contains(t, logs[0].String(), "Made a disk of image "+image)
	info, err := os.Stat(disks[0])
	require.NoError(t, err)
	require.EqualValues(t, cache.DiskSize, info.Size())

	var log bytes.Buffer
	again, err := c.Base(t.Context(), forDisk(image, "al-9"), joblog.New(&log))
	require.NoError(t, err)
	require.Equal(t, disks[0], again.Disk)
	require.Empty(t, log.String(), "it is there")
	require.Equal(t, base.Layers, again.Layers)
	require.NotEqual(t, disks[0], get(t, c, forDisk(other, "al-9")).Disk, "the order of layers matters")

	reconfigured := h.push("app:2", configured(t, imageOf(t, lower, upper), func(c *v1.ConfigFile) { c.Config.User = "other" }))
	require.Equal(t, disks[0], get(t, c, forDisk(reconfigured, "al-9")).Disk, "the configuration does not")
	require.Len(t, disksIn(t, dir), 2)
}

func TestDisksGoWithTheirImages(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "f", strings.Repeat("1", 1<<20))))
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	before := used(t, c).Bytes
	base := get(t, c, forDisk(image, "al-1"))
	after := used(t, c).Bytes
	require.GreaterOrEqual(t, after-before, int64(1<<20))
	require.Less(t, after-before, int64(4<<20), "what it takes, not what it seems to")
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, after, images[0].Use.Bytes)

	_, err = c.Remove(t.Context(), image)
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	require.FileExists(t, base.Disk, "leased")
	for range 2 { // for the image and for its disk
		c.Release("al-1")
	}
	freed, err := c.Remove(t.Context(), image)
	require.NoError(t, err)
	require.Equal(t, after, freed)
	require.Empty(t, disksIn(t, dir))
	require.Zero(t, used(t, c))
	require.FileExists(t, get(t, c, forDisk(image, "al-2")).Disk, "made again")
}

func TestDisksCountAgainstTheLimit(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir, o.DiskLimit = dir, 5<<20 })
	var bases []cache.Base
	for i := range 3 { // each takes 1 MiB in layers and a little more as a disk
		image := h.push(fmt.Sprint("app:", i), imageOf(t, layerOf(t, nil, "f", fmt.Sprint(i)+strings.Repeat("1", 1<<20))))
		bases = append(bases, get(t, c, forDisk(image, "al-1")))
		c.Release("al-1")
	}
	require.NoFileExists(t, bases[0].Disk)
	require.NoDirExists(t, bases[0].Layers[0])
	require.FileExists(t, bases[2].Disk)
	require.LessOrEqual(t, used(t, c).Bytes, int64(5<<20))
}

func TestDisksSurviveARestart(t *testing.T) {
	h, dir, run := newHub(t), t.TempDir(), t.TempDir()
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "f", "1")))
	where := func(o *cache.Options) { o.Dir, o.RunDir = dir, run }
	c, err := cache.New(cache.Options{Dir: dir, RunDir: run, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	disk := get(t, c, forDisk(image, "al-1")).Disk
	before := used(t, c)
	require.NoError(t, c.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "disks/sha256-of-no-image.ext4"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "ingest"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ingest/disk-half-made"), nil, 0o600))

	c = open(t, where)
	require.Equal(t, []string{"disks/" + filepath.Base(disk)}, disksIn(t, dir))
	require.Equal(t, before, used(t, c))
	var log bytes.Buffer
	base, err := c.Base(t.Context(), forDisk(image, "al-1"), joblog.New(&log))
	require.NoError(t, err)
	require.Equal(t, disk, base.Disk)
	require.Empty(t, log.String())

	require.NoError(t, os.Remove(disk), "by another hand")
	require.FileExists(t, get(t, c, forDisk(image, "al-1")).Disk)
}

// A job that is cancelled while its disk is made leaves neither a lease nor half a disk.
func TestCancelledDisk(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "f", "1")))
	base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	// Reading and writing this takes seconds.
	require.NoError(t, os.Truncate(filepath.Join(base.Layers[0], "f"), 30<<30))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancelled := errors.New("the job was cancelled")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cancelled) })
	_, err := c.Base(ctx, forDisk(image, "al-2"), nil)
	require.ErrorIs(t, err, cancelled)
	require.Eventually(t, func() bool { return len(disksIn(t, dir)) == 0 }, 10*time.Second, 10*time.Millisecond)
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, images[0].Leases)
}

func BenchmarkCachedBase(b *testing.B) {
	h, c := newHub(b), open(b)
	image := h.push("app:1", imageOf(b, layerOf(b, nil, "f", "1")))
	get(b, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	for b.Loop() {
		get(b, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1"})
	}
}
