package cache_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// flaky is a registry with one image, whose layer it delivers as the test says.
type flaky struct {
	*hub
	image   string
	blob    []byte // the layer as it is sent
	payload string // what is in its file

	mu     sync.Mutex
	ranges []string // the Range headers of the requests for it, "" for none
}

func newFlaky(t *testing.T) *flaky {
	random := make([]byte, 600<<10)
	_, err := rand.Read(random)
	require.NoError(t, err)
	f := &flaky{hub: newHub(t), payload: string(random)}
	layer := layerOf(t, []tarball.LayerOption{tarball.WithCompressionLevel(0)}, "big", f.payload)
	content, err := layer.Compressed()
	require.NoError(t, err)
	f.blob, err = io.ReadAll(content)
	require.NoError(t, err)
	f.image = f.push("app:1", imageOf(t, layer))
	return f
}

// deliver has the n-th request for the layer, from 1, answered by the test.
func (f *flaky) deliver(answer func(n int, w http.ResponseWriter, r *http.Request)) {
	digest, _, _ := v1.SHA256(bytes.NewReader(f.blob))
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
			return false
		}
		f.mu.Lock()
		f.ranges = append(f.ranges, r.Header.Get("Range"))
		n := len(f.ranges)
		f.mu.Unlock()
		answer(n, w, r)
		return true
	})
}

// part sends the blob from where the request wants it, up to an offset, as a server does that knows ranges.
func (f *flaky) part(w http.ResponseWriter, r *http.Request, end int) {
	start := 0
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(f.blob)-1, len(f.blob)))
		w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)-start))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(f.blob)))
	}
	f.send(w, start, end)
}

func (f *flaky) send(w http.ResponseWriter, start, end int) {
	_, _ = w.Write(f.blob[min(start, end):end])
	w.(http.Flusher).Flush()
}

func (f *flaky) pull(t *testing.T, change ...func(*cache.Options)) (cache.Base, error) {
	c := open(t, append([]func(*cache.Options){func(o *cache.Options) { o.StallTimeout = time.Second }}, change...)...)
	return c.Base(t.Context(), cache.Request{Image: f.image, PullPolicy: "always", Holder: "al-1",
		Credentials: []cache.Credentials{{Registry: f.host, Username: "ci", Password: "hunter2"}}}, nil)
}

func (f *flaky) requireWhole(t *testing.T, base cache.Base, err error) {
	t.Helper()
	require.NoError(t, err)
	content, err := os.ReadFile(filepath.Join(base.Layers[0], "big"))
	require.NoError(t, err)
	require.Equal(t, f.payload, string(content))
}

func TestPullsThatBreakGoOn(t *testing.T) {
	t.Parallel() // waits between its tries
	const half = 300 << 10
	whole := func(f *flaky, w http.ResponseWriter, r *http.Request) { f.part(w, r, len(f.blob)) }
	for name, test := range map[string]struct {
		answer func(f *flaky, n int, w http.ResponseWriter, r *http.Request)
		ranges []string
	}{
		"a reset connection": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.part(w, r, half)
				panic(http.ErrAbortHandler)
			}
			whole(f, w, r)
		}, []string{"", "bytes=307200-"}},
		"several": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n <= 3 {
				f.part(w, r, n*100<<10)
				panic(http.ErrAbortHandler)
			}
			whole(f, w, r)
		}, []string{"", "bytes=102400-", "bytes=204800-", "bytes=307200-"}},
		"an end without a length": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.send(w, 0, half)
				return
			}
			whole(f, w, r)
		}, []string{"", "bytes=307200-"}},
		"a length that is too small": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(half))
				f.send(w, 0, half)
				return
			}
			whole(f, w, r)
		}, []string{"", "bytes=307200-"}},
		"silence": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.part(w, r, half)
				<-r.Context().Done()
				return
			}
			whole(f, w, r)
		}, []string{"", "bytes=307200-"}},
		"silence before the answer": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				<-r.Context().Done()
				return
			}
			whole(f, w, r)
		}, []string{"", ""}},
		"a server without ranges": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			if n == 1 {
				f.part(w, r, half)
				panic(http.ErrAbortHandler)
			}
			whole(f, w, r)
		}, []string{"", "bytes=307200-"}},
		"another part than was asked for": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			switch n {
			case 1:
				f.part(w, r, half)
				panic(http.ErrAbortHandler)
			case 2:
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(f.blob)))
				w.WriteHeader(http.StatusPartialContent)
				f.send(w, 0, 10)
			default:
				whole(f, w, r)
			}
		}, []string{"", "bytes=307200-", ""}},
		"overload": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			switch n {
			case 1:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				whole(f, w, r)
			}
		}, []string{"", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFlaky(t)
			f.deliver(func(n int, w http.ResponseWriter, r *http.Request) { test.answer(f, n, w, r) })
			base, err := f.pull(t)
			f.requireWhole(t, base, err)
			require.Equal(t, test.ranges, f.ranges)
		})
	}
}

func TestPullsThatDoNotGoOn(t *testing.T) {
	t.Parallel() // waits between its tries
	for name, test := range map[string]struct {
		answer   func(f *flaky, n int, w http.ResponseWriter, r *http.Request)
		requests int
		class    fault.Class
		message  string
	}{
		"what is refused": {func(_ *flaky, _ int, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
		}, 1, fault.Author, "access denied"},
		"what is not there": {func(_ *flaky, _ int, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
		}, 1, fault.Author, "not found"},
		"what is forged": {func(f *flaky, _ int, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("x"), len(f.blob)))
		}, 1, fault.Author, "was delivered with other content"},
		"what is forged from the middle on": {func(f *flaky, n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				f.part(w, r, 100<<10)
				panic(http.ErrAbortHandler)
			}
			f.blob = append(f.blob[:100<<10:100<<10], bytes.Repeat([]byte("x"), len(f.blob)-100<<10)...)
			f.part(w, r, len(f.blob))
		}, 2, fault.Author, "was delivered with other content"},
		"what is shorter than it should be": {func(f *flaky, _ int, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes */1000")
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			f.send(w, 0, 1000)
		}, 2, fault.Author, "its size is not the one that the manifest gives"},
		"what leads in a circle": {func(_ *flaky, _ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, 6, fault.Author, "it redirects more than 5 times"},
		"what breaks each time": {func(f *flaky, _ int, w http.ResponseWriter, r *http.Request) {
			f.part(w, r, 100<<10)
			panic(http.ErrAbortHandler)
		}, 5, fault.System, "the connection broke"},
		"a registry that wants to be left alone for long": {func(_ *flaky, _ int, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 1, fault.System, "429 Too Many Requests"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFlaky(t)
			f.deliver(func(n int, w http.ResponseWriter, r *http.Request) { test.answer(f, n, w, r) })
			_, err := f.pull(t)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, test.class, fault.ClassOf(err), "%v", err)
			require.Len(t, f.ranges, test.requests)
		})
	}
}

// Registries answer with URLs that are good for a while: what broke is asked for at the registry again.
func TestAPullGoesOnWhereItIsLedAgain(t *testing.T) {
	t.Parallel() // waits between its tries
	f := newFlaky(t)
	var mu sync.Mutex
	var signatures []string
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		signatures = append(signatures, r.URL.Query().Get("signature")+r.Header.Get("Authorization"))
		n := len(signatures)
		mu.Unlock()
		if n == 1 {
			f.part(w, r, 100<<10)
			panic(http.ErrAbortHandler)
		}
		f.part(w, r, len(f.blob))
	}))
	t.Cleanup(store.Close)
	f.deliver(func(n int, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, fmt.Sprintf("%s/?signature=%d", store.URL, n), http.StatusTemporaryRedirect)
	})
	base, err := f.pull(t, func(o *cache.Options) {
		o.InsecureRegistries = append(o.InsecureRegistries, strings.TrimPrefix(store.URL, "http://"))
	})
	f.requireWhole(t, base, err)
	require.Equal(t, []string{"1", "2"}, signatures, "and the password stays with the registry")
}

func TestATokenThatExpiresInTheMiddle(t *testing.T) {
	t.Parallel() // waits between its tries
	f := newFlaky(t)
	var mu sync.Mutex
	tokens, good := 0, ""
	digest, _, err := v1.SHA256(bytes.NewReader(f.blob))
	require.NoError(t, err)
	f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			tokens++
			good = fmt.Sprintf("token-%d", tokens)
			_, _ = fmt.Fprintf(w, `{"token": %q}`, good)
			return true
		}
		if good == "" || r.Header.Get("Authorization") != "Bearer "+good {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="hub"`, f.host))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		f.ranges = append(f.ranges, r.Header.Get("Range"))
		if len(f.ranges) == 1 {
			good = "expired"
			f.part(w, r, 100<<10)
			panic(http.ErrAbortHandler)
		}
		f.part(w, r, len(f.blob))
		return true
	})
	base, err := f.pull(t)
	f.requireWhole(t, base, err)
	require.Equal(t, []string{"", "bytes=102400-"}, f.ranges)
}

// A registry that is being started again answers when it is asked a little later.
func TestManifestsAreAskedForAgain(t *testing.T) {
	t.Parallel() // waits between its tries
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"overload": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"aborted":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"silent":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFlaky(t)
			var mu sync.Mutex
			failures := map[string]int{}
			f.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				failures[r.URL.Path]++
				fails := failures[r.URL.Path] <= 2
				mu.Unlock()
				if fails {
					answer(w, r)
				}
				return fails
			})
			base, err := f.pull(t)
			f.requireWhole(t, base, err)
		})
	}
}
