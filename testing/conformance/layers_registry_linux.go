package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// layersRegistry is a real registry that counts how often each blob was asked for and can stall.
type layersRegistry struct {
	t      testing.TB
	server *httptest.Server

	mu    sync.Mutex
	gets  map[string]int
	stall chan struct{} // closed when a layer is half sent; nil: no stalling
}

func newLayersRegistry(t testing.TB) *layersRegistry {
	r := &layersRegistry{t: t, gets: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.mu.Lock()
			r.gets[req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]]++
			if r.stall != nil {
				w = &stallingWriter{ResponseWriter: w, request: req, reached: r.stall}
			}
			r.mu.Unlock()
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(r.server.Close)
	return r
}

func (r *layersRegistry) host() string { return strings.TrimPrefix(r.server.URL, "http://") }

// stallLayers makes every large blob stop half-way; the channel is closed when the first has.
func (r *layersRegistry) stallLayers() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stall = make(chan struct{})
	return r.stall
}

func (r *layersRegistry) stopStalling() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stall = nil
}

// stallAfter is how much of a blob is sent before it stalls, in bytes: more than any configuration has.
const stallAfter = 256 << 10

type stallingWriter struct {
	http.ResponseWriter
	request *http.Request
	reached chan struct{}
	sent    int
}

func (w *stallingWriter) Write(p []byte) (int, error) {
	if room := stallAfter - w.sent; len(p) < room {
		w.sent += len(p)
		return w.ResponseWriter.Write(p)
	} else if n, err := w.ResponseWriter.Write(p[:room]); err != nil {
		return n, err
	}
	w.ResponseWriter.(http.Flusher).Flush()
	select {
	case <-w.reached:
	default:
		close(w.reached)
	}
	<-w.request.Context().Done()
	return 0, context.Cause(w.request.Context())
}

// push makes an image of layers and returns its name.
func (r *layersRegistry) push(repository string, layers ...v1.Layer) string {
	image, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(r.t, err)
	config, err := image.ConfigFile()
	require.NoError(r.t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"FROM=" + repository}
	image, err = mutate.ConfigFile(image, config)
	require.NoError(r.t, err)
	reference := fmt.Sprintf("%s/%s:1", r.host(), repository)
	parsed, err := name.ParseReference(reference)
	require.NoError(r.t, err)
	require.NoError(r.t, remote.Write(parsed, image))
	return reference
}

// timesSent is how often a layer was asked for.
func (r *layersRegistry) timesSent(layer v1.Layer) int {
	digest, err := layer.Digest()
	require.NoError(r.t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets[digest.String()]
}

// layersLayer makes a layer of files; a name that ends in a slash is a directory.
func layersLayer(t testing.TB, files ...string) v1.Layer {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for i := 0; i < len(files); i += 2 {
		header := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(files[i], "/") {
			header.Mode, header.Typeflag = 0o755, tar.TypeDir
		}
		require.NoError(t, writer.WriteHeader(header))
		_, err := writer.Write([]byte(files[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, writer.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
	require.NoError(t, err)
	return layer
}
