package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/internal/fault"
)

// content is what a reference led to: one image for a platform of this host, not yet transferred.
type content struct {
	digest   string // of the image
	resolved string // of what the reference named: the image or an index with it
	varies   bool   // with the processor: an index has the image for several
	config   v1.Descriptor
	layers   []source // lowest first
	origin   origin   // of config, unless that carries its data
}

// source is one layer of an image that may have to be transferred.
type source struct {
	blob v1.Descriptor // zero when the origin has no blob digests
	open func(context.Context) (io.ReadCloser, error)
}

// origin is where manifests and blobs come from: a registry or a layout directory. Content is verified by
// its digest here, not there.
type origin interface {
	root(ctx context.Context) (document, error)
	manifest(ctx context.Context, desc v1.Descriptor) (document, error)
	blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error)
}

// maxConfig bounds configurations, in bytes; they hold an image's history.
const maxConfig = 16 << 20

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 4

// lookUp follows a reference, through indexes, to the image of a platform.
func lookUp(ctx context.Context, ref reference, platform v1.Platform, from origin) (*content, error) {
	doc, err := from.root(ctx)
	if err != nil {
		return nil, err
	}
	resolved, varies := doc.digest, false
	for range maxIndexDepth {
		o, isIndex, err := readOutline(ref, doc)
		if err != nil {
			return nil, err
		}
		if !isIndex {
			return newContent(ref, doc, o, from, cmp.Or(resolved, doc.digest), varies)
		}
		choice, err := pickPlatform(ref, doc, o, platform)
		if err != nil {
			return nil, err
		}
		varies = varies || choice.varies
		if doc, err = from.manifest(ctx, choice.desc); err != nil {
			return nil, err
		}
		if size := choice.desc.Size; int64(len(doc.content)) != size {
			return nil, fault.Authorf("image %s: its index is broken: the size that it gives to %s is wrong", ref.asked, choice.desc.Digest)
		}
	}
	return nil, fault.Authorf("image %s: its index nests more than %d levels", ref.asked, maxIndexDepth)
}

func newContent(ref reference, doc document, o outline, from origin, resolved string, varies bool) (*content, error) {
	manifest, err := parseManifest(ref, doc, o)
	if err != nil {
		return nil, err
	}
	found := &content{digest: doc.digest, resolved: resolved, varies: varies, config: manifest.Config, origin: from}
	for _, desc := range manifest.Layers {
		found.layers = append(found.layers, source{blob: desc,
			open: func(ctx context.Context) (io.ReadCloser, error) { return from.blob(ctx, desc) }})
	}
	return found, nil
}

// readConfig fetches and checks an image's configuration.
func (found *content) readConfig(ctx context.Context, ref reference, platform v1.Platform) (*v1.ConfigFile, error) {
	data := found.config.Data
	if found.origin != nil {
		var err error
		if data, err = readVerified(ctx, found.origin, found.config); err != nil {
			return nil, err
		}
	}
	config := &v1.ConfigFile{}
	if err := json.Unmarshal(data, config); err != nil {
		return nil, fault.Authorf("image %s: its configuration is broken: %w", ref.asked, err)
	}
	if image := platformOf(config, platform); !runsOn(&image, platform) {
		return nil, wrongPlatform(ref, []string{image.String()}, platform)
	}
	if len(config.RootFS.DiffIDs) != len(found.layers) {
		return nil, fault.Authorf("image %s: its configuration names %d layers, its manifest %d",
			ref.asked, len(config.RootFS.DiffIDs), len(found.layers))
	}
	for _, id := range config.RootFS.DiffIDs {
		if !diffIDPattern.MatchString(id.String()) {
			return nil, fault.Authorf("image %s: layer id %q is not a sha256", ref.asked, id)
		}
	}
	return config, nil
}

// readVerified reads a small blob whole and checks it against its digest.
func readVerified(ctx context.Context, from origin, desc v1.Descriptor) ([]byte, error) {
	blob, err := from.blob(ctx, desc)
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
		return nil, otherContent(desc)
	}
	return data, nil
}

// otherContent is the failure of what has another digest. It does not say which: where an image's name leads, the
// answer may be anything.
func otherContent(desc v1.Descriptor) error {
	return fault.Authorf("blob %s was delivered with other content than its digest is of", desc.Digest)
}
