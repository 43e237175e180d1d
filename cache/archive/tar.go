package archive

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// OpenTar opens what Spool wrote: a docker archive, or an OCI layout, which it extracts to dir when it has room for as much
// again. Newer docker save writes both into one; the docker archive then carries the names. It returns the image that is
// meant, and the archive's name for it, which may be empty.
func OpenTar(ctx context.Context, file, dir string, choice Choice, room func(space.Use) error) (found *image.Content, itsName string, err error) {
	isArchive, err := hasManifest(file)
	if err != nil {
		return nil, "", err
	}
	if isArchive {
		return openArchive(file, choice)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, "", fault.Systemf("reading the image: %w", err)
	}
	if err := room(space.Use{Bytes: info.Size()}); err != nil {
		return nil, "", err
	}
	if err := extractLayout(file, dir); err != nil {
		return nil, "", err
	}
	from, err := openLayout(&image.Local{Path: dir})
	if err != nil {
		return nil, "", broken(errors.New("it holds neither manifest.json nor index.json"))
	}
	if itsName, err = from.choose(choice); err != nil {
		return nil, "", err
	}
	found, err = image.LookUp(ctx, image.Reference{Asked: "the archive"}, image.LeastPlatform(), from)
	return found, itsName, err
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
			return broken(err)
		}
	}
}
