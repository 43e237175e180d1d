package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/airlock-ci/airlock/internal/fault"
)

// openArchive reads what "docker save" wrote, and returns the image that is meant and the archive's name for it; empty
// when it has none. Such an archive has no manifest; the configuration, which pins the layers by their diff ids,
// identifies the image. A compressed one is decompressed whenever something of it is read.
func openArchive(path string, choice choice) (*content, string, error) {
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

// openUncompressed opens a tar that may be compressed.
func openUncompressed(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	plain, err := uncompressed(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{plain, closers{plain, file}}, nil
}

// closers are closed together.
type closers []io.Closer

// Close is io.Closer's.
func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// pickOf returns the tag of the image that is meant, nil when there is no other, and its name.
func pickOf(opener tarball.Opener, choice choice) (*name.Tag, string, error) {
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

// firstOf returns the name by which an image was picked, else its first.
func firstOf(names []string, choice choice) string {
	if choice.pick != "" {
		return choice.pick
	}
	return names[0]
}

func archived(path string, image v1.Image) (*content, error) {
	config, err := image.RawConfigFile()
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
	found := &content{digest: digest.String(), resolved: digest.String(),
		config: v1.Descriptor{Digest: digest, Size: size, Data: config}}
	for _, diffID := range parsed.RootFS.DiffIDs {
		found.layers = append(found.layers, source{open: func(context.Context) (io.ReadCloser, error) {
			layer, err := image.LayerByDiffID(diffID)
			if err != nil {
				return nil, fault.Adminf("reading docker archive %s: %w", path, err)
			}
			return layer.Uncompressed()
		}})
	}
	return found, nil
}
