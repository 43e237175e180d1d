package cache

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPlainHTTPIsRefusedUnlessListed(t *testing.T) {
	answered := roundTripper(func(*http.Request) (*http.Response, error) { return &http.Response{Body: io.NopCloser(nil)}, nil })
	transport := &encrypted{inner: answered, insecure: []string{"10.0.0.5:5000"}}
	for url, allowed := range map[string]bool{
		"https://hub.example/v2/": true, "http://hub.example/v2/": false, "http://10.0.0.5:5000/v2/": true,
		"http://10.0.0.5/v2/": false, "http://127.0.0.1:5000/": true, "http://[::1]:5000/": true, "http://localhost/": true,
		"http://127.0.0.1.example/": false,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		response, err := transport.RoundTrip(req)
		if !allowed {
			require.ErrorIs(t, err, errPlainHTTP, url)
			continue
		}
		require.NoError(t, err, url)
		_ = response.Body
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCredentialsFindTheirRegistry(t *testing.T) {
	for _, form := range []string{"hub.example", "https://hub.example", "https://Hub.Example/v2/", "hub.example:443", "https://user@hub.example/"} {
		require.NotNil(t, authenticator("hub.example", []Credentials{{form, "u", "p"}}), form)
	}
	for _, form := range []string{"docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"} {
		require.NotNil(t, authenticator("index.docker.io", []Credentials{{form, "u", "p"}}), form)
	}
	for _, form := range []string{"", "example", "hub.example.evil", "evil/hub.example", "hub.example:5000", "https://hub.example@evil"} {
		require.Nil(t, authenticator("hub.example", []Credentials{{form, "u", "p"}}), form)
	}
	require.Nil(t, authenticator("hub.example", []Credentials{{"hub.example", "", ""}}))
}

func TestProgressKeepsItsPace(t *testing.T) {
	var log bytes.Buffer
	p := newPull(reference{}, &content{digest: "sha256:1"})
	r := &report{to: &log, pull: p, image: "app"}
	require.Less(t, r.tick(), time.Second, "nothing to say yet")
	require.Empty(t, log.String())
	p.total.Store(45 << 20)
	p.missing.Store(3)
	var elapsed time.Duration
	for elapsed < 10*time.Minute {
		pause := r.tick()
		require.GreaterOrEqual(t, pause, 2*time.Second)
		elapsed += pause
		p.done.Add(1 << 20)
	}
	require.Contains(t, log.String(), "Pulling image app (3 layers, 45 MiB)\nPulling image app: 1 MiB of 45 MiB\n")
	require.Less(t, bytes.Count(log.Bytes(), []byte("\n")), 30)
	require.NotContains(t, log.String(), "\x1b")
}

func TestLinkLocalAddressesAreRefused(t *testing.T) {
	for address, refused := range map[string]bool{"169.254.169.254:80": true, "[fe80::1%eth0]:443": true,
		"[::ffff:169.254.169.254]:80": true, "10.0.0.1:443": false, "[2001:db8::1]:443": false} {
		require.Equal(t, refused, refuseLinkLocal("tcp", address, nil) != nil, address)
	}
}
