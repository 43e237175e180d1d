// Package archive reads images from files and directories of this host: docker archives and OCI layouts.
//
// It writes what an administrator sends to a file, picks the image that is meant, and opens its layers. It never extracts
// a member whose name is not one of a layout, and never asks a network. Only administrators name what it reads: that is
// the caller's to see to. The facade calls it, for images that a request names by their path and for imports.
package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/fault"
)

// LookUp follows a reference to a file or directory of this host.
func LookUp(ctx context.Context, ref image.Reference, platform v1.Platform) (*image.Content, error) {
	if ref.Local.Archive {
		found, _, err := openArchive(ref.Local.Path, Choice{Pick: ref.Local.Tag, Remedy: "name one: " + image.ArchivePrefix + ref.Local.Path + ":IMAGE"})
		return found, err
	}
	from, err := openLayout(ref.Local)
	if err != nil {
		return nil, err
	}
	return image.LookUp(ctx, ref, platform, from)
}

// openArchive reads what "docker save" wrote, and returns the image that is meant and the archive's name for it; empty
// when it has none. Such an archive has no manifest; the configuration, which pins the layers by their diff ids,
// identifies the image. A compressed one is decompressed whenever something of it is read.
func openArchive(path string, choice Choice) (*image.Content, string, error) {
	opener := func() (io.ReadCloser, error) { return openUncompressed(path) }
	tag, itsName, err := pickOf(opener, choice)
	if err != nil {
		return nil, "", archiveFault(path, err)
	}
	image, err := tarball.Image(opener, tag)
	if err != nil {
		return nil, "", archiveFault(path, err)
	}
	found, err := archived(path, image)
	return found, itsName, err
}

func archiveFault(path string, err error) error {
	if classified := (*fault.Error)(nil); errors.As(err, &classified) {
		return err
	}
	return fault.WithRemedy(fault.Adminf("reading docker archive %s: %w", path, err), "name a file that docker save wrote")
}

// pickOf returns the tag of the image that is meant, nil when there is no other, and its name.
func pickOf(opener tarball.Opener, choice Choice) (*name.Tag, string, error) {
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, "", err
	}
	images := make([][]string, len(manifest))
	for i, image := range manifest {
		images[i] = image.RepoTags
	}
	chosen, err := choice.among(images)
	if err != nil {
		return nil, "", err
	}
	names := images[chosen]
	switch {
	case len(images) > 1: // it was picked by a name
		tag, err := name.NewTag(names[0])
		return &tag, firstOf(names, choice), err
	case len(names) == 0:
		return nil, "", nil
	default:
		return nil, firstOf(names, choice), nil
	}
}

func archived(path string, saved v1.Image) (*image.Content, error) {
	config, err := saved.RawConfigFile()
	if err != nil {
		return nil, fault.Adminf("reading docker archive %s: %w", path, err)
	}
	parsed, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fault.Adminf("reading docker archive %s: %w", path, err)
	}
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("reading docker archive %s: %w", path, err)
	}
	found := &image.Content{Digest: digest.String(), Resolved: digest.String(),
		Config: v1.Descriptor{Digest: digest, Size: size, Data: config}}
	for _, diffID := range parsed.RootFS.DiffIDs {
		found.Layers = append(found.Layers, image.Source{Open: func(context.Context) (io.ReadCloser, error) {
			layer, err := saved.LayerByDiffID(diffID)
			if err != nil {
				return nil, fault.Adminf("reading docker archive %s: %w", path, err)
			}
			return layer.Uncompressed()
		}})
	}
	return found, nil
}
