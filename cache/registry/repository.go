// Package registry talks to registries: it owns the connections, the credentials of one request, and the patience.
//
// No request goes to this host's loopback unless the administrator listed the registry, none to link-local addresses, and
// none that a registry leads to is nearer to this host than the registry itself is. Answers are bounded in size, no
// connection may be silent for long, and what broke is asked for again, a blob from where it was. It never stores or logs
// a credential, and sends it to its own registry only. The facade calls it; package image judges what it delivers.
package registry

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

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Repository is one at its registry, seen with one set of credentials. The library greets the registry, fetches
// tokens and sends them along; what is asked for, how often and how long, and what of it is believed, is decided here
// (Open Container Initiative, Distribution Specification 1.1).
type Repository struct {
	ref     image.Reference
	auth    authn.Authenticator
	session *session
	silence time.Duration // how long nothing may come

	mu     sync.Mutex
	client *http.Client // nil as long as the registry was not greeted

	// foreign fetches what the registry may not distribute, by its URLs; nil on hosts whose images have no such layers.
	foreign *foreignLayers
}

// Dial prepares for a reference's registry, with those of the credentials that are its own. Nothing is sent yet.
func (n *Network) Dial(ref image.Reference, credentials []Credentials) *Repository {
	host := ref.Remote.Context().RegistryStr()
	auth := authenticator(host, credentials)
	if auth == nil {
		auth = authn.Anonymous
	}
	return &Repository{
		ref: ref, auth: auth, silence: n.silence,
		session: &session{network: n, host: host},
		foreign: newForeignLayers(image.HostPlatform(), &session{network: n}),
	}
}

// Anonymous reports whether there were no credentials for the registry.
func (r *Repository) Anonymous() bool { return r.auth == authn.Anonymous }

// greet asks the registry how it wants to be talked to, and gets a token if it wants one. That is done once, unless it
// fails.
func (r *Repository) greet(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	named := r.ref.Remote.Context()
	authorised, err := transport.NewWithContext(ctx, named.Registry, r.auth, transport.NewUserAgent(r.session, "airlock"),
		[]string{named.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{Transport: authorised, CheckRedirect: checkRedirect}
	return r.client, nil
}

// send makes one request for a manifest or blob. Statuses other than those that are expected are errors.
func (r *Repository) send(ctx context.Context, method, kind, id string, header http.Header, expected ...int) (*http.Response, error) {
	client, err := r.greet(ctx)
	if err != nil {
		return nil, err
	}
	named := r.ref.Remote.Context()
	// Where greeting it showed that it speaks plain HTTP, the library changes the scheme.
	target := url.URL{Scheme: named.Scheme(), Host: named.RegistryStr(), Path: fmt.Sprintf("/v2/%s/%s/%s", named.RepositoryStr(), kind, id)}
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
	image.ArtifactManifest, string(types.DockerManifestSchema1Signed), string(types.DockerManifestSchema1),
}, ",")

// Head returns nil when these credentials open the manifest.
func (r *Repository) Head(ctx context.Context, digest string) error {
	return r.persist(ctx, requestTries, func(ctx context.Context) error {
		_, err := r.headManifest(ctx, digest)
		return err
	})
}

// Resolve returns the digest that the reference leads to now. Registries that answer HEAD badly return an
// error that means nothing: ask with root instead.
func (r *Repository) Resolve(ctx context.Context) (digest string, err error) {
	err = r.timed(ctx, func(ctx context.Context) (err error) {
		digest, err = r.headManifest(ctx, r.ref.Remote.Identifier())
		return err
	})
	return digest, err
}

func (r *Repository) headManifest(ctx context.Context, id string) (digest string, err error) {
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

// Root is image.Origin's, as are the next two.
func (r *Repository) Root(ctx context.Context) (image.Document, error) {
	return r.get(ctx, r.ref.Remote.Identifier())
}

// Manifest returns another manifest, by its digest.
func (r *Repository) Manifest(ctx context.Context, desc v1.Descriptor) (image.Document, error) {
	return r.get(ctx, desc.Digest.String())
}

// get returns a manifest, verified when it is asked for by digest.
func (r *Repository) get(ctx context.Context, id string) (doc image.Document, err error) {
	err = r.persist(ctx, requestTries, func(ctx context.Context) (err error) {
		doc, err = r.getOnce(ctx, id)
		return err
	})
	return doc, err
}

func (r *Repository) getOnce(ctx context.Context, id string) (image.Document, error) {
	resp, err := r.send(ctx, http.MethodGet, "manifests", id, http.Header{"Accept": {manifestTypes}}, http.StatusOK)
	if err != nil {
		return image.Document{}, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > image.MaxManifest {
		return image.Document{}, image.TooLargeManifest(r.ref)
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifest+1))
	if err != nil {
		return image.Document{}, err
	}
	if len(content) > image.MaxManifest {
		return image.Document{}, image.TooLargeManifest(r.ref)
	}
	digest, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return image.Document{}, err
	}
	if wanted, err := v1.NewHash(id); err == nil {
		if digest, err = hashOf(wanted.Algorithm, content); err != nil || digest != wanted {
			return image.Document{}, fault.Authorf("image %s: the registry delivers another manifest than the one of digest %s", r.ref.Asked, wanted)
		}
	}
	return image.Document{Digest: digest.String(), MediaType: types.MediaType(resp.Header.Get("Content-Type")), Content: content}, nil
}

func hashOf(algorithm string, content []byte) (v1.Hash, error) {
	hasher, err := v1.Hasher(algorithm)
	if err != nil {
		return v1.Hash{}, err
	}
	hasher.Write(content)
	return v1.Hash{Algorithm: algorithm, Hex: fmt.Sprintf("%x", hasher.Sum(nil))}, nil
}

// Blob opens a blob. Its content is verified by who reads it. URLs of layers are followed only for foreign layers of
// Windows, when the registry has no copy, and only to Microsoft.
func (r *Repository) Blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, repository: r, desc: desc}
	err := b.connect()
	if err != nil {
		err = b.resume(err)
	}
	if err != nil && IsGone(err) && r.foreign.covers(desc) {
		return r.foreign.open(ctx, desc)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// fault is Fault for what is read from it.
func (r *Repository) fault(ctx context.Context, err error) error {
	return Fault(ctx, r.ref, err)
}
