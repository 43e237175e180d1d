package cache

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// Import stores an image that an administrator sends as a tar: what "docker save" wrote, or an OCI image
// layout. It becomes known as name, or when that is empty as the archive calls it. It is public on this host:
// every job may use it. No lease remains.
func (c *Cache) Import(ctx context.Context, name string, stream io.Reader, progress io.Writer) (Base, error) {
	dir, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "ingest"), "")
	if err != nil {
		return Base{}, fault.Systemf("importing: %w", err)
	}
	defer c.discard(dir)
	file := filepath.Join(dir, "image.tar")
	if err := spool(file, &interruptible{ctx: ctx, from: stream}, c.opts.MaxUnpacked); err != nil {
		return Base{}, err
	}
	found, itsName, err := openTar(ctx, file, filepath.Join(dir, "layout"))
	if err != nil {
		return Base{}, err
	}
	if name == "" {
		name = itsName
	}
	if name == "" {
		return Base{}, fault.WithRemedy(fault.Adminf("the archive gives its image no name"), "give one")
	}
	ref, err := c.parseReference(name, false)
	if err != nil {
		return Base{}, err
	}
	ref.repo, ref.remote = "", nil // the administrator's, not a registry's
	const holder = "airlock image import"
	base, err := c.await(ctx, newPull(ref, found), holder, progress)
	if err == nil {
		c.store.unlease(base.Digest, holder)
	}
	return base, err
}

func spool(file string, from io.Reader, limit int64) error {
	f, err := os.Create(file)
	if err != nil {
		return fault.Systemf("receiving the image: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(from, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fault.Systemf("receiving the image: %w", err)
	}
	if n > limit {
		return tooLarge(limit)
	}
	return nil
}

// openTar opens a docker archive, or extracts an OCI layout to dir and opens that. Newer docker save writes
// both into one; the docker archive then carries the name.
func openTar(ctx context.Context, file, dir string) (found *content, name string, err error) {
	isArchive, err := hasManifest(file)
	if err != nil {
		return nil, "", err
	}
	if isArchive {
		found, err = openArchive(file)
		return found, archiveName(file), err
	}
	if err := extractLayout(file, dir); err != nil {
		return nil, "", err
	}
	ref := reference{asked: "the archive", local: &localReference{path: dir}}
	found, err = lookUpLocal(ctx, ref)
	return found, layoutName(dir), err
}

func hasManifest(file string) (found bool, err error) {
	err = eachMember(file, func(header *tar.Header, _ io.Reader) error {
		found = found || path.Clean(header.Name) == "manifest.json"
		return nil
	})
	return found, err
}

// layoutMember are the files of an OCI image layout, and nothing that could lead out of it.
var layoutMember = regexp.MustCompile(`^(oci-layout|index\.json|blobs/(sha256|sha512)/[0-9a-f]+)$`)

func extractLayout(file, dir string) error {
	return eachMember(file, func(header *tar.Header, content io.Reader) error {
		name := path.Clean(header.Name)
		if header.Typeflag != tar.TypeReg || !layoutMember.MatchString(name) {
			return nil
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return fault.Systemf("extracting the image: %w", err)
		}
		f, err := os.Create(target)
		if err != nil {
			return fault.Systemf("extracting the image: %w", err)
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	})
}

func eachMember(file string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return fault.Systemf("reading the image: %w", err)
	}
	defer f.Close()
	reader := tar.NewReader(f)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = visit(header, reader)
		}
		if err != nil {
			return fault.WithRemedy(fault.Adminf("reading the image: %w", err),
				"send an uncompressed tar: a docker archive or an OCI layout")
		}
	}
}

// layoutName is the name that a layout gives its one image, if that is one a registry could have.
func layoutName(dir string) string {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return ""
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		return ""
	}
	annotations := manifest.Manifests[0].Annotations
	if full := annotations["io.containerd.image.name"]; full != "" {
		return full
	}
	return annotations[refNameAnnotation]
}

// interruptible ends a reading with its context.
type interruptible struct {
	ctx  context.Context
	from io.Reader
}

// Read is io.Reader's.
func (r *interruptible) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, fmt.Errorf("interrupted: %w", context.Cause(r.ctx))
	}
	return r.from.Read(p)
}
