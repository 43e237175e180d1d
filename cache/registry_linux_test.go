package cache_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// hub is a real registry in this process. A repository below private/ opens to user "ci" alone, whose
// password is the repository's name. Like every registry with such, it challenges requests without one.
type hub struct {
	t    testing.TB
	host string

	mu       sync.Mutex
	requests []string
	// answer, when not nil, may answer a request in the registry's place: then it returns true.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func newHub(t testing.TB) *hub {
	h := &hub{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.requests = append(h.requests, r.Method+" "+r.URL.Path)
		answer := h.answer
		h.mu.Unlock()
		if answer != nil && answer(w, r) {
			return
		}
		if repository, private := strings.CutPrefix(r.URL.Path, "/v2/private/"); private || r.URL.Path == "/v2/" {
			user, password, ok := r.BasicAuth()
			repository, _, _ = strings.Cut(repository, "/")
			if private && (user != "ci" || password != repository) || !private && !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	h.host = strings.TrimPrefix(server.URL, "http://")
	hubs.Lock()
	defer hubs.Unlock()
	hubs.hosts = append(hubs.hosts, h.host)
	return h
}

// hubs are the registries of this process. What opens a cache after them may ask them.
var hubs struct {
	sync.Mutex
	hosts []string
}

func allHubs() []string {
	hubs.Lock()
	defer hubs.Unlock()
	return slices.Clone(hubs.hosts)
}

func (h *hub) intercept(answer func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

// seen returns the requests since the last call that contain a text.
func (h *hub) seen(text string) (matching []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		if strings.Contains(r, text) {
			matching = append(matching, r)
		}
	}
	h.requests = nil
	return matching
}

func credentialsFor(h *hub, repository string) []cache.Credentials {
	return []cache.Credentials{{Registry: "elsewhere.example", Username: "x", Password: "y"},
		{Registry: "http://" + h.host + "/v2/", Username: "ci", Password: repository}}
}

func (h *hub) push(repository string, image remote.Taggable) string {
	h.t.Helper()
	reference := h.host + "/" + repository
	ref, err := name.ParseReference(reference, name.Insecure)
	require.NoError(h.t, err)
	_, secret, _ := strings.Cut(strings.SplitN(repository, ":", 2)[0], "private/")
	auth := remote.WithAuth(&authn.Basic{Username: "ci", Password: secret})
	if index, ok := image.(v1.ImageIndex); ok {
		require.NoError(h.t, remote.WriteIndex(ref, index, auth))
	} else {
		require.NoError(h.t, remote.Write(ref, image.(v1.Image), auth))
	}
	h.seen("")
	return reference
}

func layerOf(t testing.TB, options []tarball.LayerOption, files ...string) v1.Layer {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := 0; i < len(files); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}))
		_, err := io.WriteString(w, files[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}, options...)
	require.NoError(t, err)
	return layer
}

func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(t, err)
	return configured(t, image, func(c *v1.ConfigFile) {
		c.Config.Env, c.Config.User, c.Config.WorkingDir = []string{"A=b"}, "builder", "/src"
	})
}

func configured(t testing.TB, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	change(config)
	image, err = mutate.ConfigFile(image, config)
	require.NoError(t, err)
	return image
}

func open(t testing.TB, change ...func(*cache.Options)) *cache.Cache {
	t.Helper()
	options := cache.Options{Dir: t.TempDir(), RunDir: t.TempDir(), InsecureRegistries: allHubs()}
	for _, c := range change {
		c(&options)
	}
	c, err := cache.New(options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func get(t testing.TB, c *cache.Cache, req cache.Request) cache.Base {
	t.Helper()
	base, err := c.Base(t.Context(), req, nil)
	require.NoError(t, err)
	return base
}

func requireImages(t testing.TB, c *cache.Cache, want int) {
	t.Helper()
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Len(t, images, want)
}

func TestBaseTellsWhatTheImageSays(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "lower", "1"), layerOf(t, nil, "upper", "2")))
	var progress bytes.Buffer
	base, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, joblog.New(&progress))
	require.NoError(t, err)
	require.Equal(t, image, base.Image)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, base.Digest)
	require.Equal(t, cache.Config{Env: []string{"A=b"}, User: "builder", WorkingDir: "/src"}, base.Config)
	require.True(t, base.Pulled)
	require.Positive(t, base.Bytes)
	require.FileExists(t, filepath.Join(base.Layers[0], "upper"))
	require.FileExists(t, filepath.Join(base.Layers[1], "lower"))
	require.Regexp(t, `^Pulling image `+image+` \(2 layers, \d+ B\)\nPulled image `+image+` in \d+\.\d s, sha256:[0-9a-f]{64}\n$`, progress.String())

	progress.Reset()
	base, err = c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-2"}, joblog.New(&progress))
	require.NoError(t, err)
	require.False(t, base.Pulled)
	require.Zero(t, base.Bytes)
	require.Empty(t, progress.String())
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{image}, images[0].Names)
	require.Equal(t, 2, images[0].Leases)
	require.False(t, images[0].Private)
	require.Equal(t, base.Digest, images[0].Digest)
}

func TestPullPolicies(t *testing.T) {
	h, c := newHub(t), open(t)
	shared := layerOf(t, nil, "shared", "1")
	image := h.push("app:1", imageOf(t, shared, layerOf(t, nil, "v", "1")))
	request := cache.Request{Image: image, Holder: "al-1"}

	request.PullPolicy = "never"
	_, err := c.Base(t.Context(), request, nil)
	require.ErrorContains(t, err, "pull policy is never")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	require.Empty(t, h.seen(""), "never asks nobody")

	request.PullPolicy = "if-not-present"
	first := get(t, c, request)
	require.Len(t, h.seen("GET /v2/app/blobs/"), 3, "configuration and two layers")
	require.Equal(t, first.Layers, get(t, c, request).Layers)
	require.Empty(t, h.seen(""), "present")

	request.PullPolicy = "always"
	require.Equal(t, first.Digest, get(t, c, request).Digest)
	require.Empty(t, h.seen("/blobs/"))

	h.push("app:1", imageOf(t, shared, layerOf(t, nil, "v", "2")))
	request.PullPolicy = "if-not-present"
	require.Equal(t, first.Digest, get(t, c, request).Digest, "the old one will do")
	request.PullPolicy = "always"
	second := get(t, c, request)
	require.NotEqual(t, first.Digest, second.Digest)
	require.Equal(t, first.Layers[1], second.Layers[1])
	require.Len(t, h.seen("GET /v2/app/blobs/"), 2, "configuration and the new layer only")
	request.PullPolicy = "never"
	require.Equal(t, second.Digest, get(t, c, request).Digest)

	requireImages(t, c, 2)
	c.Release("al-1")
	_, err = c.Collect(t.Context())
	require.NoError(t, err)
	requireImages(t, c, 1) // the old one has no name any more

	request.PullPolicy = "sometimes"
	_, err = c.Base(t.Context(), request, nil)
	require.ErrorContains(t, err, `unknown pull policy "sometimes"`)
}

// Overlayfs refuses to stack a directory twice.
func TestALayerThatAnImageHasTwice(t *testing.T) {
	h, c := newHub(t), open(t)
	twice, other := layerOf(t, nil, "f", "1"), layerOf(t, nil, "f", "2")
	image := h.push("twice:1", imageOf(t, twice, other, twice))
	base := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
	require.Len(t, base.Layers, 3)
	require.NotEqual(t, base.Layers[0], base.Layers[2])
	content, err := os.ReadFile(filepath.Join(base.Layers[0], "f"))
	require.NoError(t, err)
	require.Equal(t, "1", string(content))
}

func TestReferencesByDigest(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("app:1", imageOf(t, layerOf(t, nil, "v", "1")))
	digest := get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}).Digest
	for _, form := range []string{h.host + "/app@" + digest, image + "@" + digest} {
		require.Equal(t, digest, get(t, c, cache.Request{Image: form, PullPolicy: "if-not-present", Holder: "al-1"}).Digest)
	}
	h.push("app:1", imageOf(t, layerOf(t, nil, "v", "2")))
	require.Equal(t, digest, get(t, c, cache.Request{Image: image + "@" + digest, PullPolicy: "always", Holder: "al-1"}).Digest)
}

func TestIndexesAndPlatforms(t *testing.T) {
	h, c := newHub(t), open(t)
	ours := imageOf(t, layerOf(t, nil, "ours", "1"))
	foreign := configured(t, imageOf(t, layerOf(t, nil, "theirs", "1")), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	add := func(image v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	both := h.push("both:1", mutate.AppendManifests(empty.Index, add(foreign, "s390x"), add(ours, runtime.GOARCH)))
	base := get(t, c, cache.Request{Image: both, PullPolicy: "always", Holder: "al-1"})
	require.FileExists(t, filepath.Join(base.Layers[0], "ours"))
	h.seen("")
	require.False(t, get(t, c, cache.Request{Image: both, PullPolicy: "always", Holder: "al-1"}).Pulled)
	require.Empty(t, h.seen("GET /v2/both"), "HEAD of the index is enough")

	for _, image := range []string{
		h.push("foreign:1", foreign), h.push("foreign:2", mutate.AppendManifests(empty.Index, add(foreign, "s390x"))),
	} {
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
		require.Equal(t, fault.Author, fault.ClassOf(err))
		require.ErrorContains(t, err, "linux/s390x")
		require.ErrorContains(t, err, "linux/"+runtime.GOARCH)
	}
	requireImages(t, c, 1)
}

func TestPrivateImagesAreAuthorisedForEveryJob(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("private/secret:1", imageOf(t, layerOf(t, nil, "v", "1")))
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Credentials: credentialsFor(h, "secret")})
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.True(t, images[0].Private)
	for _, policy := range []string{"always", "if-not-present", "never"} {
		h.seen("")
		get(t, c, cache.Request{Image: image, PullPolicy: policy, Holder: "al-2", Credentials: credentialsFor(h, "secret")})
		require.NotEmpty(t, h.seen("HEAD /v2/private/secret/manifests/"), policy)
		for _, creds := range [][]cache.Credentials{nil, credentialsFor(h, "guessed"), {{Registry: "elsewhere.example", Username: "ci", Password: "secret"}}} {
			_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: policy, Holder: "al-3", Credentials: creds}, nil)
			require.Equal(t, fault.Author, fault.ClassOf(err), "%s: %v", policy, err)
			require.ErrorContains(t, err, "access denied")
			require.NotContains(t, err.Error(), "guessed")
		}
	}
	c.Release("al-1")
	c.Release("al-2")
	_, err = c.Remove(t.Context(), image)
	require.NoError(t, err, "who was refused leased nothing")
}

func TestAPrivateImageIsNotGivenWhenItsRegistryIsSilent(t *testing.T) {
	t.Parallel() // waits for retries
	h, c := newHub(t), open(t)
	image := h.push("private/secret:1", imageOf(t, layerOf(t, nil, "v", "1")))
	request := cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1", Credentials: credentialsFor(h, "secret")}
	get(t, c, request)
	h.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		panic(http.ErrAbortHandler)
	})
	_, err := c.Base(t.Context(), request, nil)
	require.Equal(t, fault.System, fault.ClassOf(err), "%v", err)
}

func TestAPrivateImageThatItsRegistryDeleted(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("private/secret:1", imageOf(t, layerOf(t, nil, "v", "1")))
	request := cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-1", Credentials: credentialsFor(h, "secret")}
	old := get(t, c, request)
	h.push("private/secret:1", imageOf(t, layerOf(t, nil, "v", "2")))
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		gone := strings.HasSuffix(r.URL.Path, old.Digest)
		if gone {
			w.WriteHeader(http.StatusNotFound)
		}
		return gone
	})
	request.PullPolicy = "never"
	_, err := c.Base(t.Context(), request, nil)
	require.ErrorContains(t, err, "not found")
	request.PullPolicy = "if-not-present"
	require.NotEqual(t, old.Digest, get(t, c, request).Digest, "its name leads elsewhere now")
}

func TestAPublicImagePulledWithCredentialsStaysPublic(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("public:1", imageOf(t, layerOf(t, nil, "v", "1")))
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Credentials: credentialsFor(h, "any")})
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.False(t, images[0].Private)
	h.seen("")
	get(t, c, cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-2"})
	require.Empty(t, h.seen(""))
}

// A stranger who knows a private layer's digest can write a manifest that names it. It must not open the layer.
func TestAPrivateLayerIsSharedOnlyWithWhoHasIt(t *testing.T) {
	h, c := newHub(t), open(t)
	secret := imageOf(t, layerOf(t, nil, "secret", "1"))
	image := h.push("private/secret:1", secret)
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1", Credentials: credentialsFor(h, "secret")})

	copied := h.push("thief:1", secret)
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		layers, _ := secret.Layers()
		digest, _ := layers[0].Digest()
		if r.Method != http.MethodGet || r.URL.Path != "/v2/thief/blobs/"+digest.String() {
			return false
		}
		w.WriteHeader(http.StatusNotFound) // the thief has the manifest only
		return true
	})
	_, err := c.Base(t.Context(), cache.Request{Image: copied, PullPolicy: "if-not-present", Holder: "al-2"}, nil)
	require.Equal(t, fault.Author, fault.ClassOf(err), "%v", err)
	_, err = c.Base(t.Context(), cache.Request{Image: copied, PullPolicy: "never", Holder: "al-2"}, nil)
	require.ErrorContains(t, err, "not in this runner's cache")

	h.intercept(nil)
	h.seen("")
	base := get(t, c, cache.Request{Image: copied, PullPolicy: "if-not-present", Holder: "al-2"})
	require.Len(t, h.seen("GET /v2/thief/blobs/"), 2, "it does have it: delivered, so proven")
	require.FileExists(t, filepath.Join(base.Layers[0], "secret"))
	_, err = c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "if-not-present", Holder: "al-3"}, nil)
	require.ErrorContains(t, err, "access denied", "the private name stays private")
}

func TestFailuresAreClassified(t *testing.T) {
	t.Parallel() // waits for retries
	digestOf := func(t *testing.T, image v1.Image) string {
		layers, err := image.Layers()
		require.NoError(t, err)
		digest, err := layers[0].Digest()
		require.NoError(t, err)
		return digest.String()
	}
	for name, test := range map[string]struct {
		answer  func(w http.ResponseWriter, r *http.Request, digest string) bool
		class   fault.Class
		message string
	}{
		"not found": {func(w http.ResponseWriter, r *http.Request, _ string) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such\u001b[31m tag"}]}`)
				return true
			}
			return false
		}, fault.Author, "not found: registry HOST said 404 Not Found; MANIFEST_UNKNOWN: no such[31m tag (check the image's name and tag)"},
		"denied": {func(w http.ResponseWriter, r *http.Request, _ string) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `internal: token=hunter2`)
				return true
			}
			return false
		}, fault.Author, "access denied: registry HOST said 403 Forbidden (check"},
		"no registry's error is quoted": {func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `internal: token=hunter2`)
			return true
		}, fault.Author, "registry HOST said 418 I'm a teapot"},
		"overload": {func(w http.ResponseWriter, r *http.Request, _ string) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, fault.System, "registry HOST said 503 Service Unavailable"},
		"aborted": {func(w http.ResponseWriter, r *http.Request, digest string) bool {
			if strings.HasSuffix(r.URL.Path, digest) {
				w.Header().Set("Content-Length", "1000")
				_, _ = w.Write([]byte{0x1f, 0x8b, 8, 0})
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}, fault.System, "registry HOST: the connection broke"},
		"other content": {func(w http.ResponseWriter, r *http.Request, digest string) bool {
			if strings.HasSuffix(r.URL.Path, digest) {
				_, _ = w.Write([]byte("something else"))
				return true
			}
			return false
		}, fault.Author, "its size is not the one that the manifest gives"},
		"endless content": {func(w http.ResponseWriter, r *http.Request, digest string) bool {
			if strings.HasSuffix(r.URL.Path, digest) {
				for {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return true
					}
				}
			}
			return false
		}, fault.Author, "its size is not the one that the manifest gives"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			image := imageOf(t, layerOf(t, nil, "v", "1"))
			reference, digest := h.push("app:1", image), digestOf(t, image)
			h.intercept(func(w http.ResponseWriter, r *http.Request) bool { return test.answer(w, r, digest) })
			directory := t.TempDir()
			c := open(t, func(o *cache.Options) { o.Dir = directory })
			_, err := c.Base(t.Context(), cache.Request{Image: reference, PullPolicy: "if-not-present", Holder: "al-1"}, nil)
			require.ErrorContains(t, err, strings.ReplaceAll(test.message, "HOST", h.host))
			require.Equal(t, test.class, fault.ClassOf(err))
			require.NotContains(t, err.Error(), "hunter2")
			requireNothingKept(t, c, directory)
		})
	}
}

func requireNothingKept(t *testing.T, c *cache.Cache, directory string) {
	t.Helper()
	requireImages(t, c, 0)
	for _, sub := range []string{"layers/sha256", "images", "refs"} {
		require.Zero(t, kept(t, directory, sub), sub)
	}
}

// kept counts what a directory of a cache holds.
func kept(t *testing.T, directory, sub string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(directory, sub))
	require.NoError(t, err)
	return len(entries)
}

// lyingLayer claims another diff id than it has.
type lyingLayer struct{ v1.Layer }

func (lyingLayer) DiffID() (v1.Hash, error) {
	return v1.NewHash("sha256:" + strings.Repeat("0", 64))
}

// rawLayer is a blob that is no layer.
type rawLayer struct {
	v1.Layer
	content []byte
}

func (l rawLayer) Digest() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(l.content))
	return hash, err
}
func (l rawLayer) DiffID() (v1.Hash, error) { return l.Digest() }
func (l rawLayer) Size() (int64, error)     { return int64(len(l.content)), nil }
func (l rawLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.content)), nil
}
func (l rawLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// zeros is a layer whose tar ends early and goes on with nothing.
func zeros(t testing.TB) v1.Layer {
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, err := w.Write(make([]byte, 4<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return rawLayer{layerOf(t, nil), buffer.Bytes()}
}

func TestBrokenImagesAreRefusedWhole(t *testing.T) {
	h := newHub(t)
	good := layerOf(t, nil, "good", "1")
	for name, test := range map[string]struct {
		layer   v1.Layer
		message string
	}{
		"a wrong diff id":                      {lyingLayer{layerOf(t, nil, "v", "1")}, "the image is broken: the content's digest is sha256:"},
		"no tar":                               {rawLayer{good, bytes.Repeat([]byte("no tar "), 1000)}, "the image is broken: reading its tar"},
		"broken gzip":                          {rawLayer{good, []byte{0x1f, 0x8b, 0, 0, 0}}, "the image is broken: decompressing gzip"},
		"broken zstd":                          {rawLayer{good, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff}}, "the image is broken"},
		"more zeros than may be after its end": {zeros(t), "decompressing: more than 1253376 bytes came: the image unpacks to more than 1 MiB (make the image smaller"},
		"more than may be":                     {layerOf(t, nil, "bomb", strings.Repeat("0", 2<<20)), "unpacks to more than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			c := open(t, func(o *cache.Options) { o.Dir, o.MaxUnpacked, o.MaxEntries = directory, 1<<20, 100 })
			image := h.push("broken:1", imageOf(t, good, test.layer))
			_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, fault.Author, fault.ClassOf(err))
			requireImages(t, c, 0)
			// A good layer beside the broken one may come to its end after the pull was given up; the next collection has it.
			require.Eventually(t, func() bool {
				_, err := c.Collect(t.Context())
				require.NoError(t, err)
				return kept(t, directory, "ingest") == 0 && kept(t, directory, "layers/sha256") == 0
			}, 10*time.Second, 10*time.Millisecond)
			requireImages(t, c, 0)
			require.Zero(t, kept(t, directory, "images")+kept(t, directory, "refs"))
		})
	}
}

func TestSomeLayersTogetherExceedTheBound(t *testing.T) {
	h, c := newHub(t), open(t, func(o *cache.Options) { o.MaxUnpacked = 1 << 20 })
	half := strings.Repeat("0", 700<<10)
	image := h.push("large:1", imageOf(t, layerOf(t, nil, "a", half), layerOf(t, nil, "b", half)))
	_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "unpacks to more than 1 MiB")
}

func TestNamesThatAreRefused(t *testing.T) {
	c := open(t)
	for image, message := range map[string]string{
		"":                                   "names no image",
		"Upper/Case":                         "is not the name of an image",
		"https://user:hunter2@hub.example/x": `"***@hub.example/x" is not the name`,
		"oci:/etc":                           "only an administrator may name",
		"docker-archive:/etc/passwd":         "only an administrator may name",
	} {
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
		require.ErrorContains(t, err, message)
		require.Equal(t, fault.Author, fault.ClassOf(err))
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestRegistriesThatAreNotReachable(t *testing.T) {
	t.Parallel() // waits for retries
	c := open(t, func(o *cache.Options) { o.InsecureRegistries = []string{"127.0.0.1:1"} })
	for image, class := range map[string]fault.Class{
		"127.0.0.1:1/app:1":        fault.System,
		"127.0.0.1:2/app:1":        fault.Admin,
		"169.254.169.254:80/app:1": fault.Author, // the metadata service of clouds
	} {
		_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
		require.Equal(t, class, fault.ClassOf(err), "%v", err)
	}
}

func TestAPullGoesOnUntilItsLastWaiterLeaves(t *testing.T) {
	h, c := newHub(t), open(t)
	image := h.push("slow:1", imageOf(t, layerOf(t, nil, "v", "1")))
	release, asked, aborted := make(chan struct{}), make(chan struct{}, 9), make(chan struct{}, 9)
	h.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
				aborted <- struct{}{}
			}
		}
		return false
	})
	cancelled := errors.New("the job was cancelled")
	start := func(holder string) (context.CancelCauseFunc, chan error) {
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := c.Base(ctx, cache.Request{Image: image, PullPolicy: "always", Holder: holder}, nil)
			result <- err
		}()
		return cancel, result
	}
	leave, left := start("al-1")
	<-asked
	leave(cancelled)
	require.ErrorIs(t, <-left, cancelled)
	<-aborted // nobody waited for it any more

	leave, left = start("al-2")
	<-asked
	h.seen("")
	_, stayed := start("al-3")
	require.Eventually(t, func() bool { return len(h.seen("GET /v2/slow/manifests/")) > 0 }, 10*time.Second, time.Millisecond)
	time.Sleep(100 * time.Millisecond) // from its answer to its joining
	leave(cancelled)
	require.ErrorIs(t, <-left, cancelled)
	close(release)
	require.NoError(t, <-stayed)
	require.Empty(t, aborted)
	images, err := c.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, images[0].Leases, "who left holds nothing")
}

func TestPullTimeout(t *testing.T) {
	t.Parallel() // waits for retries
	h := newHub(t)
	c := open(t, func(o *cache.Options) { o.PullTimeout = 200 * time.Millisecond })
	image := h.push("slow:1", imageOf(t, layerOf(t, nil, "v", "1")))
	h.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-r.Context().Done()
		}
		return false
	})
	_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "pull_timeout")
	require.Equal(t, fault.System, fault.ClassOf(err))
	requireImages(t, c, 0)
}
