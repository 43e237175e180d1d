package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/airlock-ci/airlock/internal/fault"
)

// registry is a repository at its registry, seen with one set of credentials. The library greets the registry, fetches
// tokens and sends them along; what is asked for, how often and how long, and what of it is believed, is decided here
// (Open Container Initiative, Distribution Specification 1.1).
type registry struct {
	ref     reference
	auth    authn.Authenticator
	session *session
	silence time.Duration // how long nothing may come

	mu     sync.Mutex
	client *http.Client // nil as long as the registry was not greeted

	// foreign fetches what the registry may not distribute, by its URLs; nil on hosts whose images have no such layers.
	foreign *foreignLayers
}

// dial prepares for a reference's registry; auth may be nil. Nothing is sent yet.
func (c *Cache) dial(ref reference, auth authn.Authenticator) *registry {
	if auth == nil {
		auth = authn.Anonymous
	}
	return &registry{
		ref: ref, auth: auth, silence: c.opts.StallTimeout,
		session: &session{web: c.web, host: ref.remote.Context().RegistryStr()},
		foreign: newForeignLayers(hostPlatform(), &session{web: c.web}),
	}
}

// greet asks the registry how it wants to be talked to, and gets a token if it wants one. That is done once, unless it
// fails.
func (r *registry) greet(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	repository := r.ref.remote.Context()
	authorised, err := transport.NewWithContext(ctx, repository.Registry, r.auth, transport.NewUserAgent(r.session, "airlock"),
		[]string{repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{Transport: authorised, CheckRedirect: checkRedirect}
	return r.client, nil
}

// send makes one request for a manifest or blob. Statuses other than those that are expected are errors.
func (r *registry) send(ctx context.Context, method, kind, id string, header http.Header, expected ...int) (*http.Response, error) {
	client, err := r.greet(ctx)
	if err != nil {
		return nil, err
	}
	repository := r.ref.remote.Context()
	// Where greeting it showed that it speaks plain HTTP, the library changes the scheme.
	target := url.URL{Scheme: repository.Scheme(), Host: repository.RegistryStr(), Path: fmt.Sprintf("/v2/%s/%s/%s", repository.RepositoryStr(), kind, id)}
	req, err := http.NewRequestWithContext(context.WithValue(ctx, contentKey{}, true), method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, expected...); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// manifestTypes are what manifests may be: images and indexes of them; and others, of which only the name is wanted, so
// that they can be refused by it.
var manifestTypes = strings.Join([]string{
	string(types.DockerManifestSchema2), string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestList),
	artifactManifest, string(types.DockerManifestSchema1Signed), string(types.DockerManifestSchema1),
}, ",")

// head returns nil when these credentials open the manifest.
func (r *registry) head(ctx context.Context, digest string) error {
	return r.persist(ctx, requestTries, func(ctx context.Context) error {
		_, err := r.headManifest(ctx, digest)
		return err
	})
}

// resolve returns the digest that the reference leads to now. Registries that answer HEAD badly return an
// error that means nothing: ask with root instead.
func (r *registry) resolve(ctx context.Context) (digest string, err error) {
	err = r.timed(ctx, func(ctx context.Context) (err error) {
		digest, err = r.headManifest(ctx, r.ref.remote.Identifier())
		return err
	})
	return digest, err
}

func (r *registry) headManifest(ctx context.Context, id string) (digest string, err error) {
	resp, err := r.send(ctx, http.MethodHead, "manifests", id, http.Header{"Accept": {manifestTypes}}, http.StatusOK)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	hash, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return "", errors.New("it does not tell the manifest's digest")
	}
	return hash.String(), nil
}

func (r *registry) root(ctx context.Context) (document, error) {
	return r.get(ctx, r.ref.remote.Identifier())
}

func (r *registry) manifest(ctx context.Context, desc v1.Descriptor) (document, error) {
	return r.get(ctx, desc.Digest.String())
}

// get returns a manifest, verified when it is asked for by digest.
func (r *registry) get(ctx context.Context, id string) (doc document, err error) {
	err = r.persist(ctx, requestTries, func(ctx context.Context) (err error) {
		doc, err = r.getOnce(ctx, id)
		return err
	})
	return doc, err
}

func (r *registry) getOnce(ctx context.Context, id string) (document, error) {
	resp, err := r.send(ctx, http.MethodGet, "manifests", id, http.Header{"Accept": {manifestTypes}}, http.StatusOK)
	if err != nil {
		return document{}, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > maxManifest {
		return document{}, tooLargeManifest(r.ref)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return document{}, err
	}
	if len(content) > maxManifest {
		return document{}, tooLargeManifest(r.ref)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return document{}, err
	}
	if wanted, err := v1.NewHash(id); err == nil {
		if digest, err = hashOf(wanted.Algorithm, content); err != nil || digest != wanted {
			return document{}, fault.Authorf("image %s: the registry delivers another manifest than the one of digest %s", r.ref.asked, wanted)
		}
	}
	return document{digest: digest.String(), mediaType: types.MediaType(resp.Header.Get("Content-Type")), content: content}, nil
}

func hashOf(algorithm string, content []byte) (v1.Hash, error) {
	hasher, err := v1.Hasher(algorithm)
	if err != nil {
		return v1.Hash{}, err
	}
	hasher.Write(content)
	return v1.Hash{Algorithm: algorithm, Hex: fmt.Sprintf("%x", hasher.Sum(nil))}, nil
}

// blob opens a blob. Its content is verified by who reads it. URLs of layers are followed only for foreign layers of
// Windows, when the registry has no copy, and only to Microsoft.
func (r *registry) blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, registry: r, desc: desc}
	err := b.connect()
	if err != nil {
		err = b.resume(err)
	}
	if err != nil && isGone(err) && r.foreign.covers(desc) {
		return r.foreign.open(ctx, desc)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// document is a manifest or an index.
type document struct {
	digest string
	// mediaType is what it was announced as, not necessarily what it is.
	mediaType types.MediaType
	content   []byte
}

// fault is registryFault for what is read from it.
func (r *registry) fault(ctx context.Context, err error) error { return registryFault(ctx, r.ref, err) }
