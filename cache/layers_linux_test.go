package cache_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache"
)

// tarLayer is a layer of headers without content.
func tarLayer(t *testing.T, headers ...tar.Header) v1.Layer {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range headers {
		header.Format = tar.FormatPAX
		require.NoError(t, w.WriteHeader(&header))
	}
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil })
	require.NoError(t, err)
	return layer
}

// A layer is shared above the same layers, and is another one above others.
func TestLayersAreSharedByTheirChain(t *testing.T) {
	h, c := newHub(t), open(t)
	base := func(mode int64) v1.Layer {
		return tarLayer(t, tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: mode})
	}
	upper := layerOf(t, nil, "tmp/x", "1")
	images := map[string]string{"one": h.push("one:1", imageOf(t, base(0o1777), upper)), "other": h.push("other:1", imageOf(t, base(0o700), upper)),
		"more": h.push("more:1", imageOf(t, base(0o1777), upper, layerOf(t, nil, "tmp/y", "2")))}
	layers := map[string][]string{}
	for name, image := range images {
		layers[name] = get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}).Layers
	}
	require.Equal(t, layers["one"], layers["more"][1:])
	require.NotEqual(t, layers["one"][0], layers["other"][0])
	for name, want := range map[string]string{"one": "dtrwxrwxrwx", "more": "dtrwxrwxrwx", "other": "drwx------"} {
		info, err := os.Stat(filepath.Join(layers[name][0], "tmp"))
		require.NoError(t, err)
		require.Equal(t, want, info.Mode().String(), name)
	}
}

// Upper layers are transferred while lower ones still are, and wait for them before they count.
func TestLayersAreTransferredSideBySide(t *testing.T) {
	h, c := newHub(t), open(t)
	lower := tarLayer(t, tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777})
	upper := layerOf(t, nil, "tmp/x", "1")
	image := h.push("app:1", imageOf(t, lower, upper))
	slow, err := lower.Digest()
	require.NoError(t, err)
	fast, err := upper.Digest()
	require.NoError(t, err)
	asked := make(chan struct{})
	h.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, fast.String()):
			close(asked)
		case strings.HasSuffix(r.URL.Path, slow.String()):
			select {
			case <-asked:
			case <-time.After(30 * time.Second): // the test fails below
			}
		}
		return false
	})
	began := time.Now()
	base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	require.Less(t, time.Since(began), 30*time.Second)
	info, err := os.Stat(filepath.Join(base.Layers[0], "tmp"))
	require.NoError(t, err)
	require.Equal(t, "dtrwxrwxrwx", info.Mode().String())
}

// What was left out of an image is said in every job that uses it, once.
func TestWarningsOfAnImage(t *testing.T) {
	h, directory := newHub(t), t.TempDir()
	device := tar.Header{Typeflag: tar.TypeChar, Name: "lib/udev/null", Devmajor: 1, Devminor: 3}
	image := h.push("app:1", configured(t, imageOf(t, tarLayer(t, device, device), tarLayer(t, device), layerOf(t, nil, "f", "")),
		func(c *v1.ConfigFile) {
			c.Config.Env = []string{"PATH=/bin", "BROKEN", "", "=secret", "EMPTY=", "A=b=c", "NUL=\x00secret"}
		}))
	want := []string{
		"left out of image " + image + ": device node /lib/udev/null and 2 more",
		`left out of image ` + image + `: environment entry that is not NAME=value: "BROKEN" and 3 more`,
	}
	run := t.TempDir()
	c, err := cache.New(cache.Options{Dir: directory, RunDir: run, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	request := cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1"}
	for range 2 {
		base := get(t, c, request)
		require.Equal(t, want, base.Warnings)
		require.Equal(t, []string{"PATH=/bin", "EMPTY=", "A=b=c"}, base.Config.Env)
	}
	require.NoError(t, c.Close())
	c = open(t, func(o *cache.Options) { o.Dir, o.RunDir = directory, run })
	require.Equal(t, want, get(t, c, request).Warnings, "after a restart")
	again := h.push("app:2", imageOf(t, tarLayer(t, device, device), layerOf(t, nil, "g", "")))
	require.Equal(t, []string{"left out of image " + again + ": device node /lib/udev/null and 1 more"},
		get(t, c, cache.Request{Image: again, PullPolicy: "always", Holder: "al-1"}).Warnings, "of a layer that was here")
}

// Images that an earlier version unpacked otherwise are pulled again; those that an administrator imported stay.
func TestImagesOfEarlierVersions(t *testing.T) {
	h, dir, run := newHub(t), t.TempDir(), t.TempDir()
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "f", "1")))
	c, err := cache.New(cache.Options{Dir: dir, RunDir: run, InsecureRegistries: allHubs()})
	require.NoError(t, err)
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	archive, err := os.Open(writeArchive(t, "hub.example/tool:1", imageOf(t, layerOf(t, nil, "g", "1"))))
	require.NoError(t, err)
	defer archive.Close()
	_, err = c.Import(t.Context(), cache.ImportRequest{Name: "tool:1"}, archive, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	records, err := filepath.Glob(filepath.Join(dir, "images/*.json"))
	require.NoError(t, err)
	require.Len(t, records, 2)
	for _, path := range records {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		record := map[string]any{}
		require.NoError(t, json.Unmarshal(content, &record))
		delete(record, "format")
		content, err = json.Marshal(record)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
	c = open(t, func(o *cache.Options) { o.Dir, o.RunDir = dir, run })
	base := get(t, c, cache.Request{Image: "tool:1", PullPolicy: "never", Holder: "al-1"})
	require.FileExists(t, filepath.Join(base.Layers[0], "g"))
	require.True(t, get(t, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1"}).Pulled)
}
