package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// openArchive reads what "docker save" wrote. Such an archive has no manifest; the configuration, which pins
// the layers by their diff ids, identifies the image.
func openArchive(path string) (*content, error) {
	image, err := tarball.Image(func() (io.ReadCloser, error) { return os.Open(path) }, nil)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("reading docker archive %s: %w", path, err),
			"name a file that docker save wrote, with one image in it")
	}
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

// archiveName is the name that an archive gives its one image; empty when it gives none.
func archiveName(path string) string {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil || len(manifest) != 1 || len(manifest[0].RepoTags) == 0 {
		return ""
	}
	return manifest[0].RepoTags[0]
}
