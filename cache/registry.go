package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registry is a repository at its registry, seen with one set of credentials.
type registry struct {
	ref    name.Reference
	puller *remote.Puller
	// foreign fetches what the registry may not distribute, by its URLs; nil on hosts whose images have no such layers.
	foreign *foreignLayers
}

// dial prepares for a reference's registry; auth may be nil. Nothing is sent yet.
func (c *Cache) dial(ref reference, auth authn.Authenticator) (*registry, error) {
	if auth == nil {
		auth = authn.Anonymous
	}
	puller, err := remote.NewPuller(remote.WithTransport(c.transport), remote.WithAuth(auth), remote.WithUserAgent("airlock"))
	if err != nil {
		return nil, fmt.Errorf("preparing for registry %s: %w", ref.remote.Context().RegistryStr(), err)
	}
	return &registry{ref: ref.remote, puller: puller, foreign: newForeignLayers(hostPlatform(), c.transport)}, nil
}

// head returns nil when these credentials open the manifest.
func (r *registry) head(ctx context.Context, digest string) error {
	_, err := r.puller.Head(ctx, r.ref.Context().Digest(digest))
	return err
}

// resolve returns the digest that the reference leads to now. Registries that answer HEAD badly return an
// error that means nothing: ask with root instead.
func (r *registry) resolve(ctx context.Context) (string, error) {
	desc, err := r.puller.Head(ctx, r.ref)
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), nil
}

func (r *registry) root(ctx context.Context) (document, error) {
	return r.get(ctx, r.ref)
}

func (r *registry) manifest(ctx context.Context, desc v1.Descriptor) (document, error) {
	return r.get(ctx, r.ref.Context().Digest(desc.Digest.String()))
}

// get returns a manifest, verified when it is asked for by digest.
func (r *registry) get(ctx context.Context, ref name.Reference) (document, error) {
	desc, err := r.puller.Get(ctx, ref)
	if err != nil {
		return document{}, err
	}
	return document{digest: desc.Digest.String(), mediaType: desc.MediaType, content: desc.Manifest}, nil
}

// blob opens a blob. Its content is verified by who reads it. URLs of layers are followed only for foreign layers of
// Windows, when the registry has no copy, and only to Microsoft.
func (r *registry) blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	layer, err := r.puller.Layer(ctx, r.ref.Context().Digest(desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	blob, err := layer.Compressed()
	if err != nil && isGone(err) && r.foreign.covers(desc) {
		return r.foreign.open(ctx, desc)
	}
	return blob, err
}

// document is a manifest or an index.
type document struct {
	digest    string
	mediaType types.MediaType
	content   []byte
}
