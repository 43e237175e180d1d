package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Microsoft/hcsshim"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/testing/hcssim/layertar"
)

// These tests import with the real hcsshim, on the simulator (wine_linux_test.go runs them there).

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "import-layer" {
		if err := ImportLayer(context.Background(), os.Args[2], os.Args[3:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const testHome = `C:\ProgramData\AirlockCache`

func openReal(t *testing.T) *Cache {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c, err := New(Options{
		Dir: filepath.Join(testHome, "cache"), RunDir: filepath.Join(testHome, "run"), Importer: []string{self, "import-layer"},
		Logger: zerolog.New(zerolog.NewTestWriter(t)),
	})
	require.NoError(t, err)
	return c
}

// writeLayout writes an image of these layers, lowest first, and returns its name.
func writeLayout(t *testing.T, name, version string, tars ...[]byte) string {
	t.Helper()
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, layer := range tars {
		var err error
		image, err = mutate.AppendLayers(image, static.NewLayer(layer, types.OCIUncompressedLayer))
		require.NoError(t, err)
	}
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config.OS, config.Architecture, config.OSVersion = "windows", "amd64", version
	image, err = mutate.ConfigFile(image, config)
	require.NoError(t, err)
	dir := filepath.Join(testHome, name)
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(image))
	return "oci:" + dir
}

// tarOf is a tar of files, each with its name and its content.
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := 0; i < len(files); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}))
		_, err := io.WriteString(w, files[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func request(image string) Request {
	return Request{Image: image, PullPolicy: PullIfNotPresent, Holder: "al-1", AllowLocal: true}
}

func TestRealLayers(t *testing.T) {
	version := image.HostPlatform().OSVersion + ".1"
	base := layertar.Base(layertar.BaseOptions{Build: 20348, UtilityVM: true, Files: map[string]string{"image/base.txt": "base", "image/both.txt": "base"}})
	upper := layertar.Upper(map[string]string{"image/both.txt": "upper"}, "image/base.txt")
	app := writeLayout(t, "app", version, base, upper)
	other := writeLayout(t, "other", version, base, layertar.Upper(map[string]string{"image/other.txt": "other"}))
	c := openReal(t)

	got, err := c.Base(t.Context(), request(app), nil)
	require.NoError(t, err)
	require.True(t, got.Pulled)
	require.Equal(t, version, got.Config.OSVersion)
	require.Len(t, got.Layers, 2)
	text, err := os.ReadFile(filepath.Join(got.Layers[0], "Files", "image", "both.txt"))
	require.NoError(t, err)
	require.Equal(t, "upper", string(text), "upper-most first")
	require.FileExists(t, filepath.Join(got.Layers[1], "Files", "image", "base.txt"))
	require.DirExists(t, filepath.Join(got.Layers[1], "UtilityVM"))
	for _, layer := range got.Layers {
		require.FileExists(t, filepath.Join(layer, "complete"))
	}
	second, err := c.Base(t.Context(), request(other), nil)
	require.NoError(t, err)
	require.Equal(t, got.Layers[1], second.Layers[1], "a base is shared")
	require.NotEqual(t, got.Layers[0], second.Layers[0])

	// A start after a crash: what lost its mark, or never had one, goes, and is imported again.
	require.NoError(t, c.Close())
	half := filepath.Join(testHome, "cache", "layers", "sha256", "half")
	require.NoError(t, os.MkdirAll(filepath.Join(half, "Files"), 0o700))
	require.NoError(t, os.Remove(filepath.Join(second.Layers[0], "complete")))
	c = openReal(t)
	require.Eventually(t, func() bool {
		_, halfErr := os.Stat(half)
		_, secondErr := os.Stat(second.Layers[0])
		return os.IsNotExist(halfErr) && os.IsNotExist(secondErr)
	}, 10*time.Second, 10*time.Millisecond)
	again, err := c.Base(t.Context(), request(other), nil)
	require.NoError(t, err)
	require.True(t, again.Pulled)
	kept, err := c.Base(t.Context(), request(app), nil)
	require.NoError(t, err)
	require.False(t, kept.Pulled)

	// Removal takes what no other image needs.
	c.Release("al-1")
	_, err = c.Remove(t.Context(), app)
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, err := os.Stat(got.Layers[0]); return os.IsNotExist(err) }, 10*time.Second, 10*time.Millisecond)
	require.DirExists(t, got.Layers[1])
	_, err = c.Remove(t.Context(), other)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	left, err := filepath.Glob(filepath.Join(testHome, "cache", "layers", "sha256", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
	left, err = filepath.Glob(filepath.Join(testHome, "cache", "ingest", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestRealBrokenLayers covers imports that fail half-way: nothing of them stays.
func TestRealBrokenLayers(t *testing.T) {
	version := image.HostPlatform().OSVersion
	base := layertar.Base(layertar.BaseOptions{Build: 20348})
	c := openReal(t)
	c.opts.MaxUnpacked = 4 << 20
	defer func() { require.NoError(t, c.Close()) }()
	for name, image := range map[string]string{
		"large":  writeLayout(t, "large", version, base, tarOf(t, "Files/large", strings.Repeat("x", 5<<20))),
		"ours":   writeLayout(t, "ours", version, base, tarOf(t, "complete", "x")),
		"twice":  writeLayout(t, "twice", version, base, tarOf(t, "Files/a", "1", "Files/a", "2")),
		"broken": writeLayout(t, "broken", version, base, base[:len(base)/2]),
		"newer":  writeLayout(t, "newer", "10.0.65000.1", base),
	} {
		_, err := c.Base(t.Context(), request(image), nil)
		require.Equal(t, fault.Author, fault.ClassOf(err), "%s: %v", name, err)
		_, err = c.Collect(t.Context())
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		left, err := filepath.Glob(filepath.Join(testHome, "cache", "layers", "sha256", "*"))
		return err == nil && len(left) == 0
	}, 10*time.Second, 10*time.Millisecond)
}

// TestRealTemplates removes an image whose base a template machine still uses, as one is kept after a Hyper-V container.
func TestRealTemplates(t *testing.T) {
	version := image.HostPlatform().OSVersion
	image := writeLayout(t, "template", version, layertar.Base(layertar.BaseOptions{Build: 20348, UtilityVM: true}))
	c := openReal(t)
	base, err := c.Base(t.Context(), request(image), nil)
	require.NoError(t, err)
	runFromTemplate(t, base.Layers)
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.NoError(t, err)
	require.Len(t, systems, 1)
	require.True(t, systems[0].IsRuntimeTemplate)
	c.Release("al-1")
	_, err = c.Remove(t.Context(), image)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoDirExists(t, base.Layers[0])
	systems, err = hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.NoError(t, err)
	require.Empty(t, systems)
}

// runFromTemplate runs and ends a Hyper-V container for which the compute service makes a template.
func runFromTemplate(t *testing.T, chain []string) {
	t.Helper()
	di, id := hcsshim.DriverInfo{HomeDir: testHome, Flavour: 1}, "from-template"
	require.NoError(t, hcsshim.CreateScratchLayer(di, id, "", chain))
	defer func() { require.NoError(t, hcsshim.DestroyLayer(di, id)) }()
	guid, err := hcsshim.NameToGuid(filepath.Base(chain[0]))
	require.NoError(t, err)
	container, err := hcsshim.CreateContainer(id, &hcsshim.ContainerConfig{
		SystemType: "Container", Name: id, Owner: "airlock", LayerFolderPath: filepath.Join(testHome, id),
		Layers: []hcsshim.Layer{{ID: guid.ToString(), Path: chain[0]}}, HvPartition: true,
		HvRuntime: &hcsshim.HvRuntime{ImagePath: filepath.Join(chain[0], "UtilityVM")},
	})
	require.NoError(t, err)
	require.NoError(t, container.Start())
	if err := container.Terminate(); hcsshim.IsPending(err) {
		require.NoError(t, container.WaitTimeout(10*time.Second))
	}
	require.NoError(t, container.Close())
}
