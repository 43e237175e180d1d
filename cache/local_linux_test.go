package cache_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

const refName = "org.opencontainers.image.ref.name"

func writeLayout(t *testing.T, images map[string]v1.Image) string {
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	for tag, image := range images {
		require.NoError(t, path.AppendImage(image, layout.WithAnnotations(map[string]string{refName: tag})))
	}
	return dir
}

func writeArchive(t testing.TB, tag string, image v1.Image) string {
	file := filepath.Join(t.TempDir(), "image.tar")
	ref, err := name.NewTag(tag)
	require.NoError(t, err)
	require.NoError(t, tarball.WriteToFile(file, ref, image))
	return file
}

func local(image string) cache.Request {
	return cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1", AllowLocal: true}
}

func TestLayoutDirectories(t *testing.T) {
	c := open(t)
	one, two := imageOf(t, layerOf(t, nil, "one", "1")), imageOf(t, layerOf(t, nil, "two", "2"))
	dir := writeLayout(t, map[string]v1.Image{"one": one, "v2": two})
	base := get(t, c, local("oci:"+dir+":one"))
	require.FileExists(t, filepath.Join(base.Layers[0], "one"))
	require.Equal(t, "builder", base.Config.User)
	digest, err := two.Digest()
	require.NoError(t, err)
	base = get(t, c, local("oci:"+dir+"@"+digest.String()))
	require.FileExists(t, filepath.Join(base.Layers[0], "two"))
	require.Equal(t, digest.String(), base.Digest)
	require.False(t, get(t, c, local("oci:"+dir+":v2")).Pulled, "known by its digest")

	for image, message := range map[string]string{
		"oci:" + dir:              "2 images match",
		"oci:" + dir + ":three":   "holds no image tagged",
		"oci:relative":            "no absolute path",
		"oci:" + t.TempDir():      "is no OCI image layout",
		"docker-archive:" + dir:   "reading docker archive",
		"docker-archive:/no/file": "no such file",
	} {
		_, err := c.Base(t.Context(), local(image), nil)
		require.ErrorContains(t, err, message)
	}
	_, err = c.Base(t.Context(), cache.Request{Image: "oci:" + dir + ":one", PullPolicy: "never", Holder: "x"}, nil)
	require.ErrorContains(t, err, "only an administrator may name", "although it is in the cache")
}

func TestLayoutWithForgedContent(t *testing.T) {
	image := imageOf(t, layerOf(t, nil, "one", "1"))
	layers, err := image.Layers()
	require.NoError(t, err)
	layer, err := layers[0].Digest()
	require.NoError(t, err)
	config, err := image.ConfigName()
	require.NoError(t, err)
	manifest, err := image.Digest()
	require.NoError(t, err)
	for _, digest := range []v1.Hash{layer, config, manifest} {
		directory := t.TempDir()
		c := open(t, func(o *cache.Options) { o.Dir = directory })
		dir := writeLayout(t, map[string]v1.Image{"one": image})
		blob := filepath.Join(dir, "blobs/sha256", digest.Hex)
		content, err := os.ReadFile(blob)
		require.NoError(t, err)
		content[len(content)/2] ^= 1
		require.NoError(t, os.WriteFile(blob, content, 0o600))
		_, err = c.Base(t.Context(), local("oci:"+dir), nil)
		require.ErrorContains(t, err, "was delivered with other content")
		require.Equal(t, fault.Author, fault.ClassOf(err))
		requireNothingKept(t, c, directory)
	}
}

func TestDockerArchives(t *testing.T) {
	c := open(t)
	image, err := rootfs.Image()
	require.NoError(t, err)
	compressed := writeArchive(t, "hub.example/busybox:1", image)
	base := get(t, c, local("docker-archive:"+compressed))
	require.FileExists(t, filepath.Join(base.Layers[0], "bin/busybox"))
	id, err := image.ConfigName()
	require.NoError(t, err)
	require.Equal(t, id.String(), base.Digest, "what docker calls the image's id")

	plain := writeArchive(t, "hub.example/plain:1", imageOf(t, rawTar(t, "f", "1")))
	base = get(t, c, local("docker-archive:"+plain))
	require.FileExists(t, filepath.Join(base.Layers[0], "f"))
}

// rawTar is a layer that is stored uncompressed.
func rawTar(t *testing.T, file, content string) v1.Layer {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content))}))
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return rawLayer{layerOf(t, nil), buffer.Bytes()}
}

func TestZstdLayers(t *testing.T) {
	h, c := newHub(t), open(t)
	zstd := []tarball.LayerOption{tarball.WithCompression(compression.ZStd)}
	image := h.push("zstd:1", imageOf(t, layerOf(t, zstd, "f", strings.Repeat("1", 1<<20))))
	base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	require.FileExists(t, filepath.Join(base.Layers[0], "f"))
}

func TestImport(t *testing.T) {
	h, c := newHub(t), open(t)
	file, err := os.Open(writeArchive(t, "hub.example/tool:1", imageOf(t, layerOf(t, nil, "f", "1"))))
	require.NoError(t, err)
	defer file.Close()
	var progress bytes.Buffer
	imported, err := c.Import(t.Context(), cache.ImportRequest{}, file, joblog.New(&progress))
	require.NoError(t, err)
	require.Contains(t, progress.String(), "Pulled image hub.example/tool:1")
	base := get(t, c, cache.Request{Image: "hub.example/tool:1", PullPolicy: "never", Holder: "al-1"})
	require.Equal(t, imported.Digest, base.Digest)

	dir := writeLayout(t, map[string]v1.Image{"v1": imageOf(t, layerOf(t, nil, "f", "2"))})
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	_, err = c.Import(t.Context(), cache.ImportRequest{Name: "tools/mine"}, bytes.NewReader(buffer.Bytes()), nil)
	require.NoError(t, err)
	base = get(t, c, cache.Request{Image: "tools/mine:latest", PullPolicy: "if-not-present", Holder: "al-1"})
	require.FileExists(t, filepath.Join(base.Layers[0], "f"))
	require.Empty(t, h.seen(""))

	for _, test := range []struct{ name, content, message string }{
		{"x", "no tar at all, but long enough to look like one: " + strings.Repeat("x", 1000), "reading the image"},
		{"x", "", "holds neither manifest.json nor index.json"},
		{"Bad Name", buffer.String(), "is not the name of an image"},
	} {
		_, err := c.Import(t.Context(), cache.ImportRequest{Name: test.name}, strings.NewReader(test.content), nil)
		require.ErrorContains(t, err, test.message)
	}
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Len(t, images, 2)
}

func TestRemoveByNameAndDigest(t *testing.T) {
	h, c := newHub(t), open(t)
	image := imageOf(t, layerOf(t, nil, "f", strings.Repeat("1", 100)))
	one, two := h.push("app:1", image), h.push("app:2", image)
	pull := func() string {
		_, err := c.Pull(t.Context(), cache.Request{Image: one}, nil)
		require.NoError(t, err)
		base, err := c.Pull(t.Context(), cache.Request{Image: two}, nil)
		require.NoError(t, err)
		return base.Digest
	}
	digest := pull()
	freed, err := c.Remove(t.Context(), one)
	require.NoError(t, err)
	require.Zero(t, freed, "it has another name")
	freed, err = c.Remove(t.Context(), two)
	require.NoError(t, err)
	require.GreaterOrEqual(t, freed, int64(4096))
	requireImages(t, c, 0)
	for _, form := range []string{digest, digest[:19], strings.TrimPrefix(digest, "sha256:")[:8]} {
		pull()
		_, err := c.Remove(t.Context(), form)
		require.NoError(t, err, form)
		requireImages(t, c, 0)
	}
	for _, form := range []string{one, digest, "sha256:0000", "abcdef"} {
		_, err := c.Remove(t.Context(), form)
		require.Equal(t, fault.Admin, fault.ClassOf(err), "%s: %v", form, err)
	}
}

func TestWhatAnotherHandBroke(t *testing.T) {
	h := newHub(t)
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "f", "1"), layerOf(t, nil, "g", "1")))
	request := cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1"}
	for name, damage := range map[string]func(t *testing.T, dir string, base cache.Base){
		"a record that is cut off": func(t *testing.T, dir string, base cache.Base) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "images", strings.Replace(base.Digest, ":", "-", 1)+".json"), 40))
		},
		"a record with a path in it": func(t *testing.T, dir string, base cache.Base) {
			file := filepath.Join(dir, "images", strings.Replace(base.Digest, ":", "-", 1)+".json")
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			content = bytes.Replace(content, []byte(`"diff_id": "sha256:`), []byte(`"diff_id": "../..`), 1)
			require.NoError(t, os.WriteFile(file, content, 0o600))
		},
		"a layer that is gone": func(t *testing.T, _ string, base cache.Base) {
			require.NoError(t, os.RemoveAll(filepath.Dir(base.Layers[1])))
		},
		"the names": func(t *testing.T, dir string, _ cache.Base) {
			refs, err := filepath.Glob(filepath.Join(dir, "refs/*"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(refs[0], []byte("{}"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, run := t.TempDir(), t.TempDir()
			c, err := cache.New(cache.Options{Dir: dir, RunDir: run, InsecureRegistries: allHubs()})
			require.NoError(t, err)
			base := get(t, c, request)
			require.NoError(t, c.Close())
			damage(t, dir, base)
			c = open(t, func(o *cache.Options) { o.Dir, o.RunDir = dir, run })
			again := get(t, c, request)
			require.Equal(t, base.Layers, again.Layers)
			for _, layer := range again.Layers {
				require.DirExists(t, layer)
			}
		})
	}
	t.Run("a layer that goes while the cache is in use", func(t *testing.T) {
		c := open(t)
		base := get(t, c, request)
		require.NoError(t, os.RemoveAll(filepath.Dir(base.Layers[0])))
		require.True(t, get(t, c, request).Pulled)
		require.FileExists(t, filepath.Join(base.Layers[0], "g"))
	})
}
