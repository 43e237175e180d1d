package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// foreignLayers fetches layers that their licence forbids to redistribute: the bases of older Windows images. Their
// manifests name URLs of the maker's. A manifest's author is anyone, so no URL is followed but to Microsoft's hosts,
// by HTTPS, without credentials; and what comes is held to its digest like any layer.
type foreignLayers struct {
	client *http.Client
	// allowed says which hosts may be asked; tests replace it.
	allowed func(*url.URL) bool
}

// newForeignLayers returns nil for hosts whose images have no such layers.
func newForeignLayers(host v1.Platform, transport http.RoundTripper) *foreignLayers {
	if host.OS != "windows" {
		return nil
	}
	f := &foreignLayers{allowed: isMicrosofts}
	f.client = &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 5 {
			return errors.New("too many redirections")
		}
		return f.check(req.URL)
	}}
	return f
}

// isMicrosofts reports whether a URL's host serves Microsoft's base layers, or is one to which such hosts lead.
func isMicrosofts(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	if u.Scheme != "https" || u.User != nil || u.Port() != "" {
		return false
	}
	for _, domain := range []string{"mcr.microsoft.com", "go.microsoft.com", "azureedge.net", "blob.core.windows.net"} {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

func (f *foreignLayers) check(u *url.URL) error {
	if !f.allowed(u) {
		return fmt.Errorf("it leads to %s://%s, and foreign layers come from Microsoft alone", u.Scheme, u.Host)
	}
	return nil
}

// covers says whether a layer is one of them.
func (f *foreignLayers) covers(desc v1.Descriptor) bool {
	return f != nil && len(desc.URLs) > 0 && (desc.MediaType == types.DockerForeignLayer || desc.MediaType == types.OCIRestrictedLayer ||
		desc.MediaType == types.OCIUncompressedRestrictedLayer)
}

// open tries the layer's URLs in turn.
func (f *foreignLayers) open(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	var errs []error
	for _, text := range desc.URLs {
		blob, err := f.get(ctx, text)
		if err == nil {
			return blob, nil
		}
		if ctx.Err() != nil {
			return nil, fault.Systemf("interrupted: %w", context.Cause(ctx))
		}
		errs = append(errs, err)
	}
	return nil, fault.WithRemedy(fault.Systemf("foreign layer %s: the registry has no copy, and %s", desc.Digest, untrusted.WithoutURL(errors.Join(errs...))),
		"push the image with its foreign layers to your registry, or let this host reach mcr.microsoft.com")
}

func (f *foreignLayers) get(ctx context.Context, text string) (io.ReadCloser, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("its URL is broken")
	}
	if err := f.check(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.WithValue(ctx, contentKey{}, true), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s said %s", u.Host, resp.Status)
	}
	return resp.Body, nil
}
