package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// content is what a reference led to: one image for this host's platform, not yet transferred.
type content struct {
	digest   string // of the image
	resolved string // of what the reference named: the image or an index with it
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

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 4

// lookUp follows a reference, through indexes, to the image of this host's platform.
func lookUp(ctx context.Context, ref reference, from origin) (*content, error) {
	doc, err := from.root(ctx)
	if err != nil {
		return nil, err
	}
	resolved := doc.digest
	for range maxIndexDepth {
		if !doc.mediaType.IsIndex() {
			found, err := parseManifest(ref, doc, from)
			if err == nil && resolved != "" {
				found.resolved = resolved
			}
			return found, err
		}
		desc, err := pickPlatform(ref, doc)
		if err != nil {
			return nil, err
		}
		if doc, err = from.manifest(ctx, desc); err != nil {
			return nil, err
		}
	}
	return nil, fault.Authorf("image %s: its index nests more than %d levels", ref.asked, maxIndexDepth)
}

// pickPlatform returns the first entry of an index that this host can run; entries without a platform are
// taken when they are the only ones (layout directories have such).
func pickPlatform(ref reference, doc document) (v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(doc.content))
	if err != nil {
		return v1.Descriptor{}, fault.Authorf("image %s: its index is broken: %w", ref.asked, err)
	}
	var offered []string
	var fitting, unmarked []v1.Descriptor
	for _, desc := range index.Manifests {
		switch {
		case !desc.MediaType.IsImage() && !desc.MediaType.IsIndex():
		case desc.Platform == nil:
			unmarked = append(unmarked, desc)
		case runs(desc.Platform):
			fitting = append(fitting, desc)
		case desc.Platform.OS != "unknown": // attestations call themselves that
			offered = append(offered, desc.Platform.String())
		}
	}
	if len(fitting) > 0 {
		return best(fitting), nil
	}
	if len(unmarked) == 1 {
		return unmarked[0], nil
	}
	if len(unmarked) > 1 {
		return v1.Descriptor{}, fault.WithRemedy(
			fault.Authorf("image %s: %d images match", ref.asked, len(unmarked)), "name one by its tag or digest")
	}
	return v1.Descriptor{}, wrongPlatform(ref, fmt.Sprint(offered))
}

func wrongPlatform(ref reference, offered string) error {
	return fault.WithRemedy(fault.Authorf("image %s is for %s, this runner is %s", ref.asked, offered, hostPlatform()),
		"use an image of that platform, or a runner of another one")
}

// maxLayers is the most that an image may have: Docker's own bound.
const maxLayers = 127

func parseManifest(ref reference, doc document, from origin) (*content, error) {
	if !doc.mediaType.IsImage() && doc.mediaType != "" {
		return nil, fault.Authorf("image %s is something else: a %q", ref.asked, printable(string(doc.mediaType), 100))
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(doc.content))
	if err != nil {
		return nil, fault.Authorf("image %s: its manifest is broken: %w", ref.asked, err)
	}
	if len(manifest.Layers) > maxLayers {
		return nil, fault.Authorf("image %s has %d layers, %d are allowed", ref.asked, len(manifest.Layers), maxLayers)
	}
	found := &content{digest: doc.digest, resolved: doc.digest, config: manifest.Config, origin: from}
	for _, desc := range manifest.Layers {
		if desc.Size < 0 {
			return nil, fault.Authorf("image %s: its manifest is broken: a layer has %d bytes", ref.asked, desc.Size)
		}
		found.layers = append(found.layers, source{blob: desc,
			open: func(ctx context.Context) (io.ReadCloser, error) { return from.blob(ctx, desc) }})
	}
	return found, nil
}

// readConfig fetches and checks an image's configuration.
func (found *content) readConfig(ctx context.Context, ref reference) (*v1.ConfigFile, error) {
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
	platform := hostPlatform()
	if config.OS != "" && config.OS != platform.OS || config.Architecture != "" && config.Architecture != platform.Architecture {
		return nil, wrongPlatform(ref, config.OS+"/"+config.Architecture)
	}
	if !runsVersion(config.OSVersion, platform.OSVersion) {
		return nil, wrongPlatform(ref, config.OS+"/"+config.Architecture+" "+config.OSVersion)
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
	data, err := io.ReadAll(io.LimitReader(io.TeeReader(blob, hasher), maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", desc.Digest, err)
	}
	if len(data) > maxDocument {
		return nil, fault.Authorf("blob %s is larger than %d bytes", desc.Digest, maxDocument)
	}
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != desc.Digest.Hex {
		return nil, fault.Systemf("blob %s was delivered with other content: its digest is %s", desc.Digest, got)
	}
	return data, nil
}
