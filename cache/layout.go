package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/airlock-ci/airlock/internal/fault"
)

// refNameAnnotation names an image in a layout's index; see the OCI image specification, annotations.
const refNameAnnotation = "org.opencontainers.image.ref.name"

// containerdNameAnnotation is the image's whole name, as containerd and newer docker save write it.
const containerdNameAnnotation = "io.containerd.image.name"

// ociLayout is an OCI image layout directory.
type ociLayout struct {
	path layout.Path
	ref  *localReference
	// chosen are the manifests of the one image that is meant, if not nil.
	chosen map[v1.Hash]bool
}

func openLayout(ref *localReference) (*ociLayout, error) {
	path, err := layout.FromPath(ref.path)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("%s is no OCI image layout: %w", ref.path, err),
			"name a directory that holds index.json")
	}
	return &ociLayout{path: path, ref: ref}, nil
}

// root returns what the reference leads to: the one image named so, or the whole index, of which the
// platform picks.
func (l *ociLayout) root(ctx context.Context) (document, error) {
	index, err := l.path.ImageIndex()
	if err != nil {
		return document{}, fault.Adminf("reading layout %s: %w", l.ref.path, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return document{}, fault.Adminf("reading layout %s: %w", l.ref.path, err)
	}
	matching := v1.IndexManifest{SchemaVersion: 2}
	for _, desc := range manifest.Manifests {
		if l.chosen != nil && !l.chosen[desc.Digest] {
			continue
		}
		if (l.ref.tag == "" || desc.Annotations[refNameAnnotation] == l.ref.tag) &&
			(l.ref.digest == "" || desc.Digest.String() == l.ref.digest) {
			matching.Manifests = append(matching.Manifests, desc)
		}
	}
	if len(matching.Manifests) == 0 {
		return document{}, fault.Adminf("layout %s holds no image tagged %q with digest %q", l.ref.path, l.ref.tag, l.ref.digest)
	}
	if len(matching.Manifests) == 1 {
		return l.manifest(ctx, matching.Manifests[0])
	}
	content, err := json.Marshal(matching)
	if err != nil {
		return document{}, fmt.Errorf("reading layout %s: %w", l.ref.path, err)
	}
	return document{mediaType: "application/vnd.oci.image.index.v1+json", content: content}, nil
}

// choose picks one of the images that the layout names, each with a manifest for every platform, and returns its name.
func (l *ociLayout) choose(choice choice) (string, error) {
	index, err := l.path.ImageIndex()
	if err != nil {
		return "", brokenArchive(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", brokenArchive(err)
	}
	var images [][]string
	var manifests []map[v1.Hash]bool
	for _, desc := range manifest.Manifests {
		var names []string
		for _, annotation := range []string{containerdNameAnnotation, refNameAnnotation} {
			if named := desc.Annotations[annotation]; named != "" {
				names = append(names, named)
			}
		}
		same := slices.IndexFunc(images, func(known []string) bool { return slices.Equal(known, names) })
		if same < 0 {
			same = len(images)
			images, manifests = append(images, names), append(manifests, map[v1.Hash]bool{})
		}
		manifests[same][desc.Digest] = true
	}
	chosen, err := choice.among(images)
	if err != nil {
		return "", err
	}
	l.chosen = manifests[chosen]
	if len(images[chosen]) == 0 {
		return "", nil
	}
	return firstOf(images[chosen], choice), nil
}

func (l *ociLayout) manifest(ctx context.Context, desc v1.Descriptor) (document, error) {
	content, err := readVerified(ctx, l, desc)
	if err != nil {
		return document{}, err
	}
	return document{digest: desc.Digest.String(), mediaType: desc.MediaType, content: content}, nil
}

func (l *ociLayout) blob(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := l.path.Blob(desc.Digest)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fault.Adminf("layout %s lacks blob %s", l.ref.path, desc.Digest)
		}
		return nil, fault.Systemf("reading layout %s: %w", l.ref.path, err)
	}
	return f, nil
}
