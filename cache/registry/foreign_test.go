package registry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// What Windows hosts fetch, as far as it does not need one.
func TestForeignLayers(t *testing.T) {
	require.Nil(t, newForeignLayers(v1.Platform{OS: "linux"}, http.DefaultTransport))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(w, "credentials came along", http.StatusTeapot)
			return
		}
		switch r.URL.Path {
		case "/layer":
			_, _ = io.WriteString(w, "content")
		case "/away":
			http.Redirect(w, r, "https://169.254.169.254/latest", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	f := newForeignLayers(v1.Platform{OS: "windows"}, server.Client().Transport)
	ours := server.Listener.Addr().String()
	f.allowed = func(u *url.URL) bool { return u.Host == ours || isMicrosofts(u) }
	desc := v1.Descriptor{MediaType: types.DockerForeignLayer, URLs: []string{server.URL + "/none", server.URL + "/layer"}}
	require.True(t, f.covers(desc))
	require.False(t, (*foreignLayers)(nil).covers(desc))
	require.False(t, f.covers(v1.Descriptor{MediaType: types.DockerLayer, URLs: desc.URLs}))
	blob, err := f.open(t.Context(), desc)
	require.NoError(t, err)
	content, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, "content", string(content))

	for _, text := range []string{server.URL + "/away", server.URL + "/none", "http://mcr.microsoft.com/x", "https://evil.example/x", "::"} {
		desc.URLs = []string{text}
		_, err := f.open(t.Context(), desc)
		require.Error(t, err, text)
	}
	for text, want := range map[string]bool{
		"https://mcr.microsoft.com/v2/x": true, "https://eastus.data.mcr.microsoft.com/x": true, "https://go.microsoft.com/fwlink/?linkid=1": true,
		"http://mcr.microsoft.com/": false, "https://mcr.microsoft.com.evil.example/": false, "https://evilmcr.microsoft.com/": false,
		"https://user@mcr.microsoft.com/": false, "https://mcr.microsoft.com:8443/": false, "https://10.0.0.1/": false,
	} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		require.Equal(t, want, isMicrosofts(u), text)
	}
}
