package cache_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// importAs imports an image as an administrator does.
func importAs(t testing.TB, c *cache.Cache, name string, image v1.Image) cache.Base {
	t.Helper()
	file, err := os.Open(writeArchive(t, "hub.example/any:1", image))
	require.NoError(t, err)
	defer file.Close()
	base, err := c.Import(t.Context(), cache.ImportRequest{Name: name}, file, nil)
	require.NoError(t, err)
	return base
}

func pinnedImages(t testing.TB, c *cache.Cache) (names []string) {
	t.Helper()
	images, err := c.List(t.Context())
	require.NoError(t, err)
	for _, image := range images {
		if image.Pinned {
			names = append(names, image.Names...)
		}
	}
	return names
}

func TestNoPullEvictsAnImportedImage(t *testing.T) {
	h, dir, run := newHub(t), t.TempDir(), t.TempDir()
	where := func(o *cache.Options) { o.Dir, o.RunDir, o.DiskLimit = dir, run, 5<<20 }
	c, err := cache.New(cache.Options{Dir: dir, RunDir: run, DiskLimit: 5 << 20, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	importAs(t, c, "tools/mine:1", imageOf(t, noise(t, 2)))
	file := "docker-archive:" + writeArchive(t, "hub.example/helper:1", imageOf(t, noise(t, 1)))
	get(t, c, local(file)) // helper_image
	c.Release(local(file).Holder)
	mine := cache.Request{Image: "tools/mine:1", PullPolicy: "never", Holder: "al-2"}
	fill := func(from int) {
		for i := range 3 {
			image := h.push(fmt.Sprint("app:", from+i), imageOf(t, noise(t, 2)))
			get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
			c.Release("al-1")
		}
	}
	fill(0)
	require.ElementsMatch(t, []string{"tools/mine:1", file}, shorter(pinnedImages(t, c)))
	usage, err := c.Usage()
	require.NoError(t, err)
	require.Greater(t, usage.Pinned.Bytes, int64(3<<20))
	require.Less(t, usage.Pinned.Bytes, int64(4<<20))

	require.NoError(t, c.Close())
	c = open(t, where)
	fill(10)
	get(t, c, mine)
	c.Release("al-2")

	require.NoError(t, c.Pin(t.Context(), "tools/mine:1", false))
	require.Equal(t, []string{file}, pinnedImages(t, c))
	fill(20)
	_, err = c.Base(t.Context(), mine, nil)
	require.ErrorContains(t, err, "not in this runner's cache")
	_, err = c.Remove(t.Context(), file)
	require.NoError(t, err, "pinned or not")
	require.Equal(t, fault.Admin, fault.ClassOf(c.Pin(t.Context(), "tools/mine:1", true)))
}

// shorter takes the registry off that a name without one gets.
func shorter(names []string) []string {
	for i, name := range names {
		names[i] = regexp.MustCompile(`^index\.docker\.io/`).ReplaceAllString(name, "")
	}
	return names
}

func TestAPulledImageCanBePinned(t *testing.T) {
	h, dir, run := newHub(t), t.TempDir(), t.TempDir()
	c, err := cache.New(cache.Options{Dir: dir, RunDir: run, DiskLimit: 3 << 20, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	first := h.push("app:1", imageOf(t, noise(t, 2)))
	get(t, c, cache.Request{Image: first, PullPolicy: "always", Holder: "al-1"})
	require.NoError(t, c.Pin(t.Context(), first, true))
	get(t, c, cache.Request{Image: first, PullPolicy: "always", Holder: "al-1"})
	require.NoError(t, c.Close())
	c = open(t, func(o *cache.Options) { o.Dir, o.RunDir, o.DiskLimit = dir, run, 3<<20 })
	get(t, c, cache.Request{Image: h.push("app:2", imageOf(t, noise(t, 2))), PullPolicy: "always", Holder: "al-1"})
	c.Release("al-1")
	get(t, c, cache.Request{Image: first, PullPolicy: "never", Holder: "al-1"})
}

// A job may find another image of that name at a registry. When that one has left the cache, the name leads to the
// imported one again.
func TestANameReturnsToWhatWasImportedUnderIt(t *testing.T) {
	h := newHub(t)
	c := open(t, func(o *cache.Options) { o.DiskLimit = 7 << 20 })
	name := h.push("app:1", imageOf(t, noise(t, 2)))
	imported := importAs(t, c, name, imageOf(t, noise(t, 2)))
	pulled := get(t, c, cache.Request{Image: name, PullPolicy: "always", Holder: "al-1"})
	require.NotEqual(t, imported.Digest, pulled.Digest)
	require.Equal(t, pulled.Digest, get(t, c, cache.Request{Image: name, PullPolicy: "never", Holder: "al-1"}).Digest)
	c.Release("al-1")
	for i := range 3 {
		get(t, c, cache.Request{Image: h.push(fmt.Sprint("other:", i), imageOf(t, noise(t, 2))), PullPolicy: "always", Holder: "al-1"})
		c.Release("al-1")
	}
	require.Equal(t, imported.Digest, get(t, c, cache.Request{Image: name, PullPolicy: "never", Holder: "al-1"}).Digest)
	c.Release("al-1")

	get(t, c, cache.Request{Image: name, PullPolicy: "always", Holder: "al-1"})
	c.Release("al-1")
	_, err := c.Remove(t.Context(), name)
	require.NoError(t, err)
	_, err = c.Base(t.Context(), cache.Request{Image: name, PullPolicy: "never", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "not in this runner's cache", "the name is gone, with both")
	require.Empty(t, pinnedImages(t, c))

	importAs(t, c, name, imageOf(t, noise(t, 1)))
	importAs(t, c, name, imageOf(t, noise(t, 1)))
	require.Len(t, pinnedImages(t, c), 1, "the newer import takes the name, and nobody can ask for the older")
}

// The records of the version before knew neither pins nor inodes, and sizes as files' contents have them.
func TestRecordsOfAnOlderVersion(t *testing.T) {
	h, dir, run := newHub(t), t.TempDir(), t.TempDir()
	c, err := cache.New(cache.Options{Dir: dir, RunDir: run, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	importAs(t, c, "tools/mine:1", imageOf(t, noise(t, 1)))
	app := h.push("app:1", imageOf(t, files(t, 300)))
	get(t, c, cache.Request{Image: app, PullPolicy: "always", Holder: "al-1"})
	before := used(t, c)
	list, err := c.List(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())

	records, err := filepath.Glob(filepath.Join(dir, "images/*.json"))
	require.NoError(t, err)
	require.Len(t, records, 2)
	for _, record := range records {
		info, err := os.Stat(record)
		require.NoError(t, err)
		content, err := os.ReadFile(record)
		require.NoError(t, err)
		for _, newer := range []string{`,\s*"pinned": (true|false)`, `,\s*"inodes": [0-9]+`} {
			content = regexp.MustCompile(newer).ReplaceAll(content, nil)
		}
		content = regexp.MustCompile(`"size": [0-9]+`).ReplaceAll(content, []byte(`"size": 0`))
		require.NotRegexp(t, "pinned|inodes", string(content))
		require.NoError(t, os.WriteFile(record, content, 0o600))
		require.NoError(t, os.Chtimes(record, info.ModTime(), info.ModTime()))
	}

	c = open(t, func(o *cache.Options) { o.Dir, o.RunDir = dir, run })
	require.Equal(t, []string{"tools/mine:1"}, shorter(pinnedImages(t, c)))
	require.Eventually(t, func() bool { return used(t, c).Inodes == before.Inodes }, time.Minute, 10*time.Millisecond)
	require.Equal(t, before, used(t, c))
	again, err := c.List(t.Context())
	require.NoError(t, err)
	for i := range list {
		require.Equal(t, list[i].Digest, again[i].Digest, "the order of last use is what it was")
		require.Equal(t, list[i].Use, again[i].Use)
		require.WithinDuration(t, list[i].LastUsed, again[i].LastUsed, time.Second)
	}
}
