package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/airlock-ci/airlock/cache/untrusted"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Content is what a reference led to: one image for a platform of this host, not yet transferred.
type Content struct {
	Digest   string // of the image
	Resolved string // of what the reference named: the image or an index with it
	Varies   bool   // with the processor: an index has the image for several
	Config   v1.Descriptor
	Layers   []Source // lowest first
	origin   Origin   // of config, unless that carries its data
}

// Source is one layer of an image that may have to be transferred.
type Source struct {
	Blob v1.Descriptor // zero when the origin has no blob digests
	Open func(context.Context) (io.ReadCloser, error)
}

// Origin is where manifests and blobs come from: a registry or a layout directory. Content is verified by
// its digest here, not there.
type Origin interface {
	// Root returns what the reference names.
	Root(ctx context.Context) (Document, error)
	// Manifest returns another document, by its digest.
	Manifest(ctx context.Context, desc v1.Descriptor) (Document, error)
	// Blob opens a configuration or a layer.
	Blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error)
}

// maxConfig bounds configurations, in bytes; they hold an image's history.
const maxConfig = 16 << 20

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 4

// LookUp follows a reference, through indexes, to the image of a platform.
func LookUp(ctx context.Context, ref Reference, platform v1.Platform, from Origin) (*Content, error) {
	doc, err := from.Root(ctx)
	if err != nil {
		return nil, err
	}
	resolved, varies := doc.Digest, false
	for range maxIndexDepth {
		o, isIndex, err := readOutline(ref, doc)
		if err != nil {
			return nil, err
		}
		if !isIndex {
			return newContent(ref, doc, o, from, cmp.Or(resolved, doc.Digest), varies)
		}
		choice, err := pickPlatform(ref, doc, o, platform)
		if err != nil {
			return nil, err
		}
		varies = varies || choice.varies
		if doc, err = from.Manifest(ctx, choice.desc); err != nil {
			return nil, err
		}
		if size := choice.desc.Size; int64(len(doc.Content)) != size {
			return nil, fault.Authorf("image %s: its index is broken: the size that it gives to %s is wrong", ref.Asked, choice.desc.Digest)
		}
	}
	return nil, fault.Authorf("image %s: its index nests more than %d levels", ref.Asked, maxIndexDepth)
}

func newContent(ref Reference, doc Document, o outline, from Origin, resolved string, varies bool) (*Content, error) {
	manifest, err := parseManifest(ref, doc, o)
	if err != nil {
		return nil, err
	}
	found := &Content{Digest: doc.Digest, Resolved: resolved, Varies: varies, Config: manifest.Config, origin: from}
	for _, desc := range manifest.Layers {
		found.Layers = append(found.Layers, Source{Blob: desc,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return from.Blob(ctx, desc) }})
	}
	return found, nil
}

// ReadConfig fetches and checks an image's configuration.
func (found *Content) ReadConfig(ctx context.Context, ref Reference, platform v1.Platform) (*v1.ConfigFile, error) {
	data := found.Config.Data
	if found.origin != nil {
		var err error
		if data, err = ReadVerified(ctx, found.origin, found.Config); err != nil {
			return nil, err
		}
	}
	config := &v1.ConfigFile{}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, fault.Authorf("image %s: its configuration is broken: %w", ref.Asked, err)
	}
	if image := PlatformOf(config, platform); !RunsOn(&image, platform) {
		return nil, WrongPlatform(ref, []string{image.String()}, platform)
	}
	if len(config.RootFS.DiffIDs) != len(found.Layers) {
		return nil, fault.Authorf("image %s: its configuration names %d layers, its manifest %d",
			ref.Asked, len(config.RootFS.DiffIDs), len(found.Layers))
	}
	for _, id := range config.RootFS.DiffIDs {
		if id.Algorithm != "sha256" || !IsDigest(id.String()) {
			return nil, fault.Authorf("image %s: layer id %q is not a sha256", ref.Asked, id)
		}
	}
	return config, nil
}

// ReadVerified reads a small blob whole and checks it against its digest.
func ReadVerified(ctx context.Context, from Origin, desc v1.Descriptor) ([]byte, error) {
	blob, err := from.Blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	hasher, err := v1.Hasher(desc.Digest.Algorithm)
	if err != nil {
		return nil, fault.Authorf("blob %s: %w", desc.Digest, err)
	}
	data, err := io.ReadAll(io.LimitReader(io.TeeReader(blob, hasher), maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", desc.Digest, err)
	}
	if len(data) > maxConfig {
		return nil, fault.Authorf("blob %s is larger than %d bytes", desc.Digest, maxConfig)
	}
	if fmt.Sprintf("%x", hasher.Sum(nil)) != desc.Digest.Hex {
		return nil, untrusted.OtherContent(desc)
	}
	return data, nil
}

// Document is a manifest or an index.
type Document struct {
	Digest string
	// MediaType is what it was announced as, not necessarily what it is.
	MediaType types.MediaType
	Content   []byte
}
