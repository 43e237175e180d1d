package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/fault"
)

// refNameAnnotation names an image in a layout's index; see the OCI image specification, annotations.
const refNameAnnotation = "org.opencontainers.image.ref.name"

// containerdNameAnnotation is the image's whole name, as containerd and newer docker save write it.
const containerdNameAnnotation = "io.containerd.image.name"

// ociLayout is an OCI image layout directory.
type ociLayout struct {
	path layout.Path
	ref  *image.Local
	// chosen are the manifests of the one image that is meant, if not nil.
	chosen map[v1.Hash]bool
}

func openLayout(ref *image.Local) (*ociLayout, error) {
	path, err := layout.FromPath(ref.Path)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("%s is no OCI image layout: %w", ref.Path, err),
			"name a directory that holds index.json")
	}
	return &ociLayout{path: path, ref: ref}, nil
}

// Root returns what the reference leads to: the one image named so, or the whole index, of which the
// platform picks.
func (l *ociLayout) Root(ctx context.Context) (image.Document, error) {
	index, err := l.path.ImageIndex()
	if err != nil {
		return image.Document{}, fault.Adminf("reading layout %s: %w", l.ref.Path, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return image.Document{}, fault.Adminf("reading layout %s: %w", l.ref.Path, err)
	}
	matching := v1.IndexManifest{SchemaVersion: 2}
	for _, desc := range manifest.Manifests {
		if l.chosen != nil && !l.chosen[desc.Digest] {
			continue
		}
		if (l.ref.Tag == "" || desc.Annotations[refNameAnnotation] == l.ref.Tag) &&
			(l.ref.Digest == "" || desc.Digest.String() == l.ref.Digest) {
			matching.Manifests = append(matching.Manifests, desc)
		}
	}
	if len(matching.Manifests) == 0 {
		return image.Document{}, fault.Adminf("layout %s holds no image tagged %q with digest %q", l.ref.Path, l.ref.Tag, l.ref.Digest)
	}
	if len(matching.Manifests) == 1 {
		return l.Manifest(ctx, matching.Manifests[0])
	}
	content, err := json.Marshal(matching)
	if err != nil {
		return image.Document{}, fmt.Errorf("reading layout %s: %w", l.ref.Path, err)
	}
	return image.Document{MediaType: "application/vnd.oci.image.index.v1+json", Content: content}, nil
}

// choose picks one of the images that the layout names, each with a manifest for every platform, and returns its name.
func (l *ociLayout) choose(choice Choice) (string, error) {
	index, err := l.path.ImageIndex()
	if err != nil {
		return "", broken(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", broken(err)
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

func (l *ociLayout) Manifest(ctx context.Context, desc v1.Descriptor) (image.Document, error) {
	content, err := image.ReadVerified(ctx, l, desc)
	if err != nil {
		return image.Document{}, err
	}
	return image.Document{Digest: desc.Digest.String(), MediaType: desc.MediaType, Content: content}, nil
}

func (l *ociLayout) Blob(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := l.path.Blob(desc.Digest)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fault.Adminf("layout %s lacks blob %s", l.ref.Path, desc.Digest)
		}
		return nil, fault.Systemf("reading layout %s: %w", l.ref.Path, err)
	}
	return f, nil
}
