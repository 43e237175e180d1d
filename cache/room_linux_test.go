package cache_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// smallDisk mounts a new ext4 file system of some MiB and so many inodes, and returns where.
func smallDisk(t testing.TB, mib, inodes int) string {
	t.Helper()
	image, mount := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, int64(mib)<<20))
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-N", strconv.Itoa(inodes), image}, {"mount", "-o", "loop", image, mount},
	} {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		require.NoError(t, err, "%s: %s", command, out)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mount, 0)) })
	return mount
}

func freeOn(t testing.TB, dir string) (space, inodes int64) {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize, int64(st.Ffree)
}

// leaving is an option: what stays free.
func leaving(space, inodes int64) func(cache.Use) cache.Use {
	return func(cache.Use) cache.Use { return cache.Use{Bytes: space, Inodes: inodes} }
}

// watchFree looks at a file system until stop, which returns the least that was free.
func watchFree(t testing.TB, dir string) (stop func() (space, inodes int64)) {
	t.Helper()
	space, inodes := freeOn(t, dir)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Errorf("looking at %s: %v", dir, err)
				return
			}
			space, inodes = min(space, int64(st.Bavail)*st.Bsize), min(inodes, int64(st.Ffree))
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	finish := sync.OnceFunc(func() {
		close(end)
		<-ended
	})
	t.Cleanup(finish)
	return func() (int64, int64) {
		finish()
		return space, inodes
	}
}

// du asks du, by its own way of counting.
func du(t testing.TB, dirs ...string) (bytes, inodes int64) {
	t.Helper()
	ask := func(what string) (sum int64) {
		for _, dir := range dirs {
			out, err := exec.CommandContext(t.Context(), "du", "-s", what, dir).Output()
			require.NoError(t, err)
			n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
			require.NoError(t, err)
			sum += n
		}
		return sum
	}
	return ask("--block-size=1"), ask("--inodes")
}

// layerFrom is a layer of what write puts into its tar.
func layerFrom(t testing.TB, write func(add func(h tar.Header, content string))) v1.Layer {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	write(func(h tar.Header, content string) {
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o755
		}
		h.Size = int64(len(content))
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
	})
	require.NoError(t, w.Close())
	return layerOfTar(t, buffer.Bytes())
}

func layerOfTar(t testing.TB, content []byte) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	require.NoError(t, err)
	return layer
}

// noise is a layer of one file that takes so many MiB, in whatever compression.
func noise(t testing.TB, mib int) v1.Layer {
	t.Helper()
	seed := rand.NewChaCha8([32]byte{byte(mib), byte(rand.Uint32()), byte(rand.Uint32())})
	content := make([]byte, mib<<20)
	_, _ = seed.Read(content)
	return layerFrom(t, func(add func(tar.Header, string)) { add(tar.Header{Name: "noise"}, string(content)) })
}

// files is a layer of so many empty files.
func files(t testing.TB, n int) v1.Layer {
	t.Helper()
	salt := rand.Uint32()
	return layerFrom(t, func(add func(tar.Header, string)) {
		for i := range n {
			add(tar.Header{Name: fmt.Sprintf("%08x-%d", salt, i)}, "")
		}
	})
}

// sparse is a layer of a file of 1 TiB with nothing in it, as GNU tar writes it.
func sparse(t testing.TB, format string) v1.Layer {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(dir, "f"), 1<<40))
	content, err := exec.CommandContext(t.Context(), "tar", "--sparse", "--format="+format, "-C", dir, "-c", "f").Output()
	require.NoError(t, err)
	require.Less(t, len(content), 100<<10)
	return layerOfTar(t, content)
}

// Whatever an image is made of, it is stopped while it is unpacked, and nothing of it stays.
func TestAnImageBeyondItsLimitsIsStoppedWhileUnpacking(t *testing.T) {
	const size, entries = "unpacks to more than 2 MiB", "holds more than 1000 files"
	many := func(n int, make func(i int) tar.Header) v1.Layer {
		return layerFrom(t, func(add func(tar.Header, string)) {
			add(tar.Header{Name: "first"}, "x")
			for i := range n {
				add(make(i), "")
			}
		})
	}
	for name, test := range map[string]struct {
		layers     []v1.Layer
		maxEntries int64
		message    string
	}{
		"zeros":                   {[]v1.Layer{layerOf(t, nil, "f", strings.Repeat("\x00", 8<<20))}, 0, size},
		"sparse, GNU":             {[]v1.Layer{sparse(t, "gnu")}, 0, size},
		"sparse, POSIX":           {[]v1.Layer{sparse(t, "posix")}, 0, size},
		"several layers":          {[]v1.Layer{noise(t, 1), noise(t, 1), noise(t, 1)}, 0, size},
		"empty files":             {[]v1.Layer{files(t, 1100)}, 1000, entries},
		"files of several layers": {[]v1.Layer{files(t, 400), files(t, 400), files(t, 400)}, 1000, entries},
		"hard links": {[]v1.Layer{many(1100, func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeLink, Linkname: "first", Name: fmt.Sprint(i)}
		})}, 1000, entries},
		"marks of removed files": {[]v1.Layer{many(1100, func(i int) tar.Header { return tar.Header{Name: fmt.Sprint(".wh.", i)} })}, 1000, entries},
		"a path that implies directories": {[]v1.Layer{many(1, func(int) tar.Header {
			return tar.Header{Name: strings.Repeat("d/", 1500) + "f"}
		})}, 300, strings.Replace(entries, "1000", "300", 1)},
		"implied directories side by side": {[]v1.Layer{many(100, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i, "/", strings.Repeat("d/", 20), "f")}
		})}, 300, strings.Replace(entries, "1000", "300", 1)},
		"directories": {[]v1.Layer{many(600, func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprint("d", i)}
		})}, 0, size},
		"long symbolic links": {[]v1.Layer{many(600, func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint("l", i), Linkname: strings.Repeat("x", 100)}
		})}, 0, size},
		"extended attributes": {[]v1.Layer{many(600, func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("f", i), PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 500)}}
		})}, 0, size},
		"a large directory": {[]v1.Layer{many(5000, func(i int) tar.Header {
			return tar.Header{Typeflag: tar.TypeLink, Linkname: "first", Name: fmt.Sprintf("%0250d", i)}
		})}, 0, size},
		"global headers": {[]v1.Layer{layerFrom(t, func(add func(tar.Header, string)) {
			for range 6 {
				add(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": strings.Repeat("x", 1000<<10)}}, "")
			}
		})}, 1000, size},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, dir := newHub(t), t.TempDir()
			c := open(t, func(o *cache.Options) { o.Dir, o.MaxUnpacked, o.MaxEntries = dir, 2<<20, test.maxEntries })
			image := h.push("bomb:1", imageOf(t, test.layers...))
			_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
			require.ErrorContains(t, err, test.message)
			require.ErrorContains(t, err, map[bool]string{true: "image_size_limit", false: "image_inode_limit"}[test.message == size])
			require.Equal(t, fault.Author, fault.ClassOf(err))
			requireNothingLeft(t, c, dir)
			usage, err := c.Usage()
			require.NoError(t, err)
			require.EqualValues(t, 1, usage.Counts.TooLarge)
		})
	}
}

// requireNothingLeft waits until what failed is deleted, and looks whether that is all.
func requireNothingLeft(t *testing.T, c *cache.Cache, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, sub := range []string{"ingest", "trash", "layers/sha256", "disks", "images", "refs"} {
			entries, err := os.ReadDir(filepath.Join(dir, sub))
			if err != nil || len(entries) > 0 {
				return false
			}
		}
		return used(t, c) == cache.Use{}
	}, time.Minute, 10*time.Millisecond)
}

// A layer that is here already counts for the next image that has it.
func TestLayersThatAreHereCountForTheirImage(t *testing.T) {
	h := newHub(t)
	c := open(t, func(o *cache.Options) { o.MaxUnpacked = 10 << 20 })
	base, more := noise(t, 6), noise(t, 6)
	get(t, c, cache.Request{Image: h.push("base:1", imageOf(t, base)), PullPolicy: "always", Holder: "al-1"})
	_, err := c.Base(t.Context(), cache.Request{Image: h.push("more:1", imageOf(t, base, more)), PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "unpacks to more than 10 MiB")
	requireImages(t, c, 1)
}

// What a cache says it takes is what du finds.
func TestUseIsMeasuredInBlocksAndInodes(t *testing.T) {
	h, dir := newHub(t), smallDisk(t, 64, 5_000)
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	image := h.push("app:1", imageOf(t, files(t, 1000), layerFrom(t, func(add func(tar.Header, string)) {
		add(tar.Header{Name: "content"}, strings.Repeat("x", 1<<20+1))
		add(tar.Header{Name: "small"}, "x")
		for i := range 50 {
			add(tar.Header{Typeflag: tar.TypeLink, Linkname: "content", Name: fmt.Sprint("linked", i)}, "")
		}
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "long", Linkname: strings.Repeat("y", 200)}, "")
		add(tar.Header{Name: strings.Repeat("deep/", 700) + "f"}, "x")
		add(tar.Header{Name: "attribute", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 2000)}}, "")
	})))
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	requireUse := func(holds ...string) {
		t.Helper()
		var all []string
		for _, sub := range holds {
			found, err := filepath.Glob(filepath.Join(dir, sub, "*"))
			require.NoError(t, err)
			all = append(all, found...)
		}
		bytes, inodes := du(t, all...)
		require.Equal(t, cache.Use{Bytes: bytes, Inodes: inodes}, used(t, c))
		images, err := c.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, used(t, c), images[0].Use)
		require.Greater(t, inodes, int64(1000+700))
	}
	requireUse("layers/sha256", "images", "refs")
	require.FileExists(t, get(t, c, forDisk(image, "al-1")).Disk)
	requireUse("layers/sha256", "images", "refs", "disks")
}

// 200,000 empty files are not nothing: they are a reason to collect.
func TestInodesCountAgainstTheirLimit(t *testing.T) {
	for _, form := range []cache.Form{cache.FormLayers, cache.FormDisk} {
		h := newHub(t)
		c := open(t, func(o *cache.Options) { o.InodeLimit = 750 })
		for i := range 3 {
			image := h.push(fmt.Sprint("app:", i), imageOf(t, files(t, 300)))
			get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Form: form})
			c.Release("al-1")
			require.LessOrEqual(t, used(t, c).Inodes, int64(750))
		}
		requireImages(t, c, 2)
		usage, err := c.Usage()
		require.NoError(t, err)
		require.EqualValues(t, 1, usage.Counts.Evicted)
	}
}

// An image makes room for itself before it is there, and never below the floor.
func TestRoomIsMadeBeforeItIsNeeded(t *testing.T) {
	const floor = 10 << 20
	for _, form := range []cache.Form{cache.FormLayers, cache.FormDisk} {
		h, dir := newHub(t), smallDisk(t, 48, 5_000)
		c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(floor, 0) })
		var images []string
		for i := range 5 {
			images = append(images, h.push(fmt.Sprint("app:", i), imageOf(t, noise(t, 8))))
		}
		stop := watchFree(t, dir)
		for _, image := range images {
			get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Form: form})
			c.Release("al-1")
		}
		space, _ := stop()
		require.Greater(t, space, int64(floor-1<<20))
	}
}

// Pulls that run at the same time share what is free: each alone would fit.
func TestPullsTogetherStopAtTheFloor(t *testing.T) {
	const floor = 16 << 20
	h, dir := newHub(t), smallDisk(t, 64, 5_000)
	c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(floor, 0) })
	before, _ := freeOn(t, dir)
	var images []string
	for i := range 6 {
		images = append(images, h.push(fmt.Sprint("app:", i), imageOf(t, noise(t, 5), noise(t, 5))))
	}
	stop := watchFree(t, dir)
	results := make([]error, len(images))
	var running sync.WaitGroup
	for i, image := range images {
		running.Go(func() {
			form := []cache.Form{cache.FormLayers, cache.FormDisk}[i%2]
			_, results[i] = c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: fmt.Sprint("al-", i), Form: form}, nil)
		})
	}
	running.Wait()
	space, _ := stop()
	require.Greater(t, space, int64(floor-1<<20))
	refused := errors.Join(results...)
	require.ErrorContains(t, refused, "has no room: 16 MiB of it stay free (min_free_space) (try again when other jobs have ended;")
	for _, err := range results {
		if err != nil {
			require.Equal(t, fault.System, fault.ClassOf(err), "the host is full, the image is not too large: %v", err)
		}
	}
	for i, image := range images {
		c.Release(fmt.Sprint("al-", i))
		_, err := c.Remove(t.Context(), image)
		if results[i] == nil {
			require.NoError(t, err)
		}
	}
	requireNothingLeft(t, c, dir)
	after, _ := freeOn(t, dir)
	require.Greater(t, after, before-1<<20)
	get(t, c, cache.Request{Image: images[0], PullPolicy: "always", Holder: "al-9"})
}

func TestPullsStopAtTheFloorOfInodes(t *testing.T) {
	h, dir := newHub(t), smallDisk(t, 64, 3000)
	c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(0, 1000) })
	one, two := h.push("app:1", imageOf(t, files(t, 1200))), h.push("app:2", imageOf(t, files(t, 1200)))
	stop := watchFree(t, dir)
	get(t, c, cache.Request{Image: one, PullPolicy: "always", Holder: "al-1"})
	_, err := c.Base(t.Context(), cache.Request{Image: two, PullPolicy: "always", Holder: "al-2"}, nil)
	require.ErrorContains(t, err, "has no inodes left: 1000 of them stay free (min_free_inodes)")
	require.Equal(t, fault.System, fault.ClassOf(err))
	c.Release("al-1") // now it may go
	get(t, c, cache.Request{Image: two, PullPolicy: "always", Holder: "al-2"})
	_, inodes := stop()
	require.Greater(t, inodes, int64(1000-8), "but for a few that bookkeeping has for a moment")
	requireImages(t, c, 1)
}

// Somebody else filled the disk: a small image cannot help it, and images that would not be enough are not evicted.
func TestAFullHostIsNotTheAuthorsFault(t *testing.T) {
	h, dir := newHub(t), smallDisk(t, 64, 5000)
	c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(3<<20, 0) })
	kept := h.push("kept:1", imageOf(t, noise(t, 1)))
	get(t, c, cache.Request{Image: kept, PullPolicy: "always", Holder: "al-1"})
	c.Release("al-1")
	space, _ := freeOn(t, dir)
	filler := filepath.Join(dir, "filler")
	file, err := os.Create(filler)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(file.Fd()), 0, 0, space-64<<10))
	require.NoError(t, file.Close())
	small := cache.Request{Image: h.push("small:1", imageOf(t, layerOf(t, nil, "f", "1"))), PullPolicy: "always", Holder: "al-2"}
	_, err = c.Base(t.Context(), small, nil)
	require.Equal(t, fault.System, fault.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "min_free_space")
	get(t, c, cache.Request{Image: kept, PullPolicy: "never", Holder: "al-2"})
	usage, err := c.Usage()
	require.NoError(t, err)
	require.EqualValues(t, 1, usage.Counts.NoRoom)
	require.Positive(t, usage.Floor.Bytes)
	require.NoError(t, os.Remove(filler))
	get(t, c, small)
}

// The disk of a virtual machine is as large again as its layers.
func TestADiskStopsAtTheFloor(t *testing.T) {
	h, dir := newHub(t), smallDisk(t, 64, 5000)
	c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(10<<20, 0) })
	image := h.push("app:1", imageOf(t, noise(t, 30)))
	stop := watchFree(t, dir)
	_, err := c.Base(t.Context(), forDisk(image, "al-1"), nil)
	require.ErrorContains(t, err, "making a disk of image")
	require.ErrorContains(t, err, "min_free_space")
	require.Equal(t, fault.System, fault.ClassOf(err))
	space, _ := stop()
	require.Greater(t, space, int64(9<<20))
	require.Eventually(t, func() bool { return len(disksIn(t, dir)) == 0 }, time.Minute, 10*time.Millisecond)
	_, err = c.Remove(t.Context(), image)
	require.NoError(t, err, "its lease is gone")
}

// Pulls that make room for themselves leave alone what the others have half made.
func TestPullsDoNotEvictEachOthersParts(t *testing.T) {
	h := newHub(t)
	c := open(t, func(o *cache.Options) { o.DiskLimit = 5 << 20 })
	common := noise(t, 1)
	var running sync.WaitGroup
	for i := range 8 {
		image := h.push(fmt.Sprint("app:", i), imageOf(t, common, noise(t, 2), noise(t, 1)))
		running.Go(func() {
			holder := fmt.Sprint("al-", i)
			for range 3 {
				base, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: holder}, nil)
				if err != nil {
					t.Errorf("image %d: %v", i, err)
					return
				}
				for _, layer := range base.Layers {
					if _, err := os.Stat(filepath.Join(layer, "noise")); err != nil {
						t.Errorf("image %d: %v", i, err)
					}
				}
				c.Release(holder)
			}
		})
	}
	running.Wait()
	_, err := c.Collect(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, used(t, c).Bytes, int64(5<<20))
}

// An archive that is imported takes room of its own until it is unpacked.
func TestAnImportStopsAtTheFloor(t *testing.T) {
	dir := smallDisk(t, 32, 2000)
	c := open(t, func(o *cache.Options) { o.Dir, o.MinFree = dir, leaving(5<<20, 0) })
	archive, err := os.Open(writeArchive(t, "hub.example/large:1", imageOf(t, noise(t, 30))))
	require.NoError(t, err)
	defer archive.Close()
	stop := watchFree(t, dir)
	_, err = c.Import(t.Context(), cache.ImportRequest{}, archive, nil)
	require.ErrorContains(t, err, "min_free_space")
	require.Equal(t, fault.System, fault.ClassOf(err))
	space, _ := stop()
	require.Greater(t, space, int64(4<<20))
	requireNothingLeft(t, c, dir)
}
