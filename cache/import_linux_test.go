package cache_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// severalImages is what docker save writes of several images, by name; the file that each has is called as it.
func severalImages(t *testing.T, names ...string) []byte {
	images := map[name.Tag]v1.Image{}
	for _, n := range names {
		tag, err := name.NewTag(n)
		require.NoError(t, err)
		images[tag] = imageOf(t, layerOf(t, nil, tag.TagStr(), ""))
	}
	var archive bytes.Buffer
	require.NoError(t, tarball.MultiWrite(images, &archive))
	return archive.Bytes()
}

// severalLayouts is an OCI layout in a tar, with a file called as each image in it.
func severalLayouts(t *testing.T, annotation string, names ...string) []byte {
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	for _, n := range names {
		_, tag, _ := strings.Cut(n, ":")
		require.NoError(t, path.AppendImage(imageOf(t, layerOf(t, nil, tag, "")), layout.WithAnnotations(map[string]string{annotation: n})))
	}
	return tarOf(t, dir)
}

func tarOf(t *testing.T, dir string) []byte {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func gzipped(t *testing.T, content []byte) []byte {
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, err := w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func zstandard(t *testing.T, content []byte) []byte {
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer w.Close()
	return w.EncodeAll(content, nil)
}

func remedyOf(err error) string {
	if told := (*fault.Error)(nil); errors.As(err, &told) {
		return told.Remedy
	}
	return ""
}

func TestImportOfCompressedArchives(t *testing.T) {
	one, err := os.ReadFile(writeArchive(t, "hub.example/tool:1", imageOf(t, layerOf(t, nil, "f", "1"))))
	require.NoError(t, err)
	twice := tarOf(t, writeLayout(t, map[string]v1.Image{"v1": imageOf(t, layerOf(t, nil, "f", "1"))}))
	for name, content := range map[string][]byte{
		"gzip": gzipped(t, one), "zstd": zstandard(t, one), "plain": one, "gzip in two parts": append(gzipped(t, one[:1000]), gzipped(t, one[1000:])...),
		"layout, gzip": gzipped(t, twice), "layout, zstd": zstandard(t, twice),
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			_, err := c.Import(t.Context(), cache.ImportRequest{Name: "app:1"}, bytes.NewReader(content), nil)
			require.NoError(t, err)
			base := get(t, c, cache.Request{Image: "app:1", PullPolicy: "never", Holder: "al-1"})
			require.FileExists(t, filepath.Join(base.Layers[0], "f"))

			if strings.HasPrefix(name, "layout") {
				return
			}
			file := filepath.Join(t.TempDir(), "image.tar") // whatever its name says
			require.NoError(t, os.WriteFile(file, content, 0o600))
			base = get(t, open(t), local("docker-archive:"+file))
			require.FileExists(t, filepath.Join(base.Layers[0], "f"))
		})
	}
}

func TestImportNamesWhatItDoesNotRead(t *testing.T) {
	archive, err := os.ReadFile(writeArchive(t, "hub.example/tool:1", imageOf(t, layerOf(t, nil, "f", "1"))))
	require.NoError(t, err)
	var xzipped bytes.Buffer
	w, err := xz.NewWriter(&xzipped)
	require.NoError(t, err)
	_, err = w.Write(archive)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	bzip2 := exec.Command("bzip2", "-c")
	bzip2.Stdin = bytes.NewReader(archive)
	bzipped, err := bzip2.Output()
	require.NoError(t, err)
	dir := t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir = dir })
	for name, test := range map[string]struct {
		content         []byte
		message, remedy string
	}{
		"xz":          {xzipped.Bytes(), "compressed with xz; gzip, zstd or none", "xz -dc FILE | airlock image import"},
		"bzip2":       {bzipped, "compressed with bzip2; gzip, zstd or none", "bzip2 -dc FILE | airlock image import"},
		"zip":         {[]byte("PK\x03\x04..............................."), "compressed with zip", "decompress it first"},
		"cut off":     {gzipped(t, archive)[:300], "unexpected EOF", "gzip or zstd"},
		"broken":      {append(gzipped(t, archive)[:300], make([]byte, 5000)...), "reading the image", "gzip or zstd"},
		"broken zstd": {append([]byte("\x28\xb5\x2f\xfd"), bytes.Repeat([]byte{0xff}, 1000)...), "reading the image", "gzip or zstd"},
		"no archive":  {gzipped(t, []byte(strings.Repeat("text ", 1000))), "reading the image", "docker archive or an OCI layout"},
		"no image":    {gzipped(t, tarOf(t, t.TempDir())), "holds neither manifest.json nor index.json", "docker archive or an OCI layout"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Import(t.Context(), cache.ImportRequest{Name: "app:1"}, bytes.NewReader(test.content), nil)
			require.ErrorContains(t, err, test.message)
			require.Contains(t, remedyOf(err), test.remedy)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
	requireNothingKept(t, c, dir)
	file := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(file, xzipped.Bytes(), 0o600))
	_, err = c.Base(t.Context(), local("docker-archive:"+file), nil)
	require.ErrorContains(t, err, "compressed with xz")
}

// An archive that unpacks to more than an image may have ends before it fills the disk.
func TestImportOfABomb(t *testing.T) {
	dir := t.TempDir()
	c := open(t, func(o *cache.Options) { o.Dir, o.MaxUnpacked = dir, 1<<20 })
	for name, bomb := range map[string][]byte{"gzip": gzipped(t, make([]byte, 64<<20)), "zstd": zstandard(t, make([]byte, 64<<20))} {
		_, err := c.Import(t.Context(), cache.ImportRequest{Name: "app:1"}, bytes.NewReader(bomb), nil)
		require.ErrorContains(t, err, "unpacks to more than 1 MiB", name)
	}
	requireNothingKept(t, c, dir)
}

func TestImportOfOneOfSeveralImages(t *testing.T) {
	for form, archive := range map[string][]byte{
		"docker archive":      severalImages(t, "app:1", "app:2", "hub.example/tool:3"),
		"layout":              severalLayouts(t, refName, "app:1", "app:2", "hub.example/tool:3"),
		"containerd's layout": severalLayouts(t, "io.containerd.image.name", "app:1", "app:2", "hub.example/tool:3"),
	} {
		for _, test := range []struct {
			name, pick, want, file string
			message                string
		}{
			{"", "app:2", "app:2", "2", ""},
			{"mine:1", "app:2", "mine:1", "2", ""},
			{"", "docker.io/library/app:2", "app:2", "2", ""},
			{"hub.example/tool:3", "", "hub.example/tool:3", "3", ""},
			{"mine:1", "", "", "", "the archive holds 3 images: "},
			{"", "", "", "", "hub.example/tool:3"},
			{"", "app:4", "", "", `holds no image "app:4"; it holds: `},
			{"app:1", "app", "", "", `holds no image "app"; it holds: `},
		} {
			t.Run(fmt.Sprintf("%s, %q of %q", form, test.pick, test.name), func(t *testing.T) {
				c := open(t)
				_, err := c.Import(t.Context(), cache.ImportRequest{Name: test.name, Pick: test.pick}, bytes.NewReader(archive), nil)
				if test.message != "" {
					require.ErrorContains(t, err, test.message)
					require.ErrorContains(t, err, "app:1")
					require.Contains(t, remedyOf(err), "--name")
					require.Equal(t, fault.Admin, fault.ClassOf(err))
					requireImages(t, c, 0)
					return
				}
				require.NoError(t, err)
				base := get(t, c, cache.Request{Image: test.want, PullPolicy: "never", Holder: "al-1"})
				require.FileExists(t, filepath.Join(base.Layers[0], test.file))
				requireImages(t, c, 1)
			})
		}
	}
	t.Run("named in the configuration", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "several.tar")
		require.NoError(t, os.WriteFile(file, zstandard(t, severalImages(t, "app:1", "hub.example:5000/tool:3")), 0o600))
		c := open(t)
		base := get(t, c, local("docker-archive:"+file+":hub.example:5000/tool:3"))
		require.FileExists(t, filepath.Join(base.Layers[0], "3"))
		_, err := c.Base(t.Context(), local("docker-archive:"+file), nil)
		require.ErrorContains(t, err, "the archive holds 2 images: ")
		require.Contains(t, remedyOf(err), "docker-archive:"+file+":IMAGE")
	})
	t.Run("without names", func(t *testing.T) {
		image := imageOf(t, layerOf(t, nil, "f", ""))
		dir := t.TempDir()
		path, err := layout.Write(dir, empty.Index)
		require.NoError(t, err)
		require.NoError(t, path.AppendImage(image))
		_, err = open(t).Import(t.Context(), cache.ImportRequest{}, bytes.NewReader(tarOf(t, dir)), nil)
		require.ErrorContains(t, err, "gives its image no name")
		_, err = open(t).Import(t.Context(), cache.ImportRequest{Name: "mine:1"}, bytes.NewReader(tarOf(t, dir)), nil)
		require.NoError(t, err)
	})
}

// What docker save writes today is a docker archive and an OCI layout in one.
func TestImportOfBothFormsInOne(t *testing.T) {
	image := imageOf(t, layerOf(t, nil, "f", ""))
	both := t.TempDir()
	path, err := layout.Write(both, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(image, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name": "docker.io/library/app:1", refName: "1"})))
	config, err := image.ConfigName()
	require.NoError(t, err)
	layers, err := image.Layers()
	require.NoError(t, err)
	layer, err := layers[0].Digest()
	require.NoError(t, err)
	manifest := fmt.Sprintf(`[{"Config":"blobs/sha256/%s","RepoTags":["app:1"],"Layers":["blobs/sha256/%s"]}]`, config.Hex, layer.Hex)
	require.NoError(t, os.WriteFile(filepath.Join(both, "manifest.json"), []byte(manifest), 0o600))
	c := open(t)
	_, err = c.Import(t.Context(), cache.ImportRequest{}, bytes.NewReader(gzipped(t, tarOf(t, both))), nil)
	require.NoError(t, err)
	base := get(t, c, cache.Request{Image: "app:1", PullPolicy: "never", Holder: "al-1"})
	require.FileExists(t, filepath.Join(base.Layers[0], "f"))
}
