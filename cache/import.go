package cache

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// ImportRequest says what of an archive is imported, and as what.
type ImportRequest struct {
	// Name is what the image becomes known as; empty: as the archive calls it.
	Name string
	// Pick is the name by which the archive calls the image, if it holds several; empty picks the one that is called
	// Name.
	Pick string
}

// Import stores an image that an administrator sends as a tar, which may be compressed with gzip or zstd: what
// "docker save" wrote, or an OCI image layout. It is public on this host: every job may use it, and it is
// pinned: no pull evicts it. No lease remains.
func (c *Cache) Import(ctx context.Context, req ImportRequest, stream io.Reader, log *joblog.Log) (Base, error) {
	dir, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "ingest"), "")
	if err != nil {
		return Base{}, fault.Systemf("importing: %w", err)
	}
	defer c.discard(dir)
	file := filepath.Join(dir, "image.tar")
	claim := c.room.claim()
	defer claim.end()
	if err := spool(file, &interruptible{ctx: ctx, from: stream}, &roomy{ctx: ctx, claim: claim}, c.opts.MaxUnpacked); err != nil {
		return Base{}, err
	}
	found, itsName, err := openTar(ctx, file, filepath.Join(dir, "layout"), req, claim)
	if err != nil {
		return Base{}, err
	}
	known := req.Name
	if known == "" {
		known = itsName
	}
	if known == "" {
		return Base{}, fault.WithRemedy(fault.Adminf("the archive gives its image no name"), "give one: airlock image import NAME FILE")
	}
	ref, err := c.parseReference(known, false)
	if err != nil {
		return Base{}, err
	}
	ref.repo, ref.remote = "", nil // the administrator's, not a registry's
	const holder = "airlock image import"
	base, err := c.await(ctx, newPull(ref, leastPlatform(), found), holder, log)
	if err != nil {
		return Base{}, err
	}
	defer c.store.unlease(base.Digest, holder)
	return base, c.store.pinDigest(base.Digest, true)
}

// spool writes an archive to a file, uncompressed.
func spool(file string, from io.Reader, room *roomy, limit int64) error {
	received := &failing{from: from}
	plain, err := uncompressed(received)
	var n int64
	if err == nil {
		defer plain.Close()
		var f *os.File
		if f, err = os.Create(file); err != nil {
			return fault.Systemf("receiving the image: %w", err)
		}
		room.to = f
		n, err = io.Copy(room, io.LimitReader(plain, limit+1))
		err = errors.Join(err, f.Close())
	}
	var ours *fs.PathError
	switch {
	case received.err != nil:
		return fault.Systemf("receiving the image: %w", received.err)
	case errors.As(err, &ours):
		return fault.Systemf("receiving the image: %w", err)
	case err != nil:
		return brokenArchive(err)
	case n > limit:
		return tooLarge(limit)
	}
	return nil
}

// failing remembers why reading failed.
type failing struct {
	from io.Reader
	err  error
}

// Read is io.Reader's.
func (f *failing) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// roomy writes where there is room for it.
type roomy struct {
	ctx   context.Context //nolint:containedctx // of the one import
	claim *claim
	to    io.Writer
}

// Write is io.Writer's.
func (r *roomy) Write(p []byte) (int, error) {
	r.claim.settle()
	if err := r.claim.take(r.ctx, Use{Bytes: int64(len(p))}); err != nil {
		return 0, err
	}
	return r.to.Write(p)
}

func brokenArchive(err error) error {
	if classified := (*fault.Error)(nil); errors.As(err, &classified) {
		return err
	}
	return fault.WithRemedy(fault.Adminf("reading the image: %w", err),
		"send a tar, as it is or compressed with gzip or zstd: a docker archive or an OCI layout")
}

// otherCompressions are those that are not read here, by how they begin.
var otherCompressions = []struct{ magic, name, program string }{
	{"BZh", "bzip2", "bzip2"}, {"\xfd7zXZ\x00", "xz", "xz"}, {"\x04\x22\x4d\x18", "lz4", "lz4"}, {"LZIP", "lzip", "lzip"}, {"\x1f\x9d", "compress", "gzip"},
	{"PK\x03\x04", "zip", "funzip"},
}

// uncompressed reads a tar that may be compressed, whatever its name says.
func uncompressed(from io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(from)
	head, _ := buffered.Peek(6)
	for _, c := range otherCompressions {
		if strings.HasPrefix(string(head), c.magic) {
			return nil, fault.WithRemedy(fault.Adminf("the archive is compressed with %s; gzip, zstd or none are read here", c.name),
				fmt.Sprintf("decompress it first: %s -dc FILE | airlock image import NAME -", c.program))
		}
	}
	return decompress(buffered)
}

// openTar opens a docker archive, or extracts an OCI layout to dir and opens that. Newer docker save writes
// both into one; the docker archive then carries the names.
func openTar(ctx context.Context, file, dir string, req ImportRequest, room *claim) (found *content, itsName string, err error) {
	isArchive, err := hasManifest(file)
	if err != nil {
		return nil, "", err
	}
	choice := choice{pick: req.Pick, name: req.Name, remedy: "pick one: airlock image import --name IMAGE FILE"}
	if isArchive {
		return openArchive(file, choice)
	}
	if err := room.take(ctx, room.taken); err != nil { // as much again: a layout is most of its tar
		return nil, "", err
	}
	if err := extractLayout(file, dir); err != nil {
		return nil, "", err
	}
	from, err := openLayout(&localReference{path: dir})
	if err != nil {
		return nil, "", brokenArchive(errors.New("it holds neither manifest.json nor index.json"))
	}
	if itsName, err = from.choose(choice); err != nil {
		return nil, "", err
	}
	found, err = lookUp(ctx, reference{asked: "the archive"}, leastPlatform(), from)
	return found, itsName, err
}

// choice says which image of an archive is meant.
type choice struct {
	pick   string // the archive's name of it, if not empty
	name   string // else this, if the archive holds several
	remedy string
}

// among returns which of some images is meant, each given with the names that the archive has for it.
func (c choice) among(images [][]string) (int, error) {
	wanted := c.pick
	if wanted == "" && len(images) == 1 {
		return 0, nil
	}
	if wanted == "" {
		wanted = c.name
	}
	for i, names := range images {
		if wanted != "" && slices.ContainsFunc(names, func(n string) bool { return sameName(n, wanted) }) {
			return i, nil
		}
	}
	var known []string
	for _, names := range images {
		if len(names) == 0 {
			names = []string{"one without a name"}
		}
		known = append(known, names...)
	}
	listed := printable(strings.Join(known, ", "), 2000)
	switch {
	case len(images) == 0:
		return 0, fault.Adminf("the archive holds no image")
	case c.pick != "":
		return 0, fault.WithRemedy(fault.Adminf("the archive holds no image %q; it holds: %s", printable(c.pick, 200), listed), c.remedy)
	default:
		return 0, fault.WithRemedy(fault.Adminf("the archive holds %d images: %s", len(images), listed), c.remedy)
	}
}

// sameName compares names of images as registries understand them: "debian" is "docker.io/library/debian:latest".
func sameName(a, b string) bool {
	if a == b {
		return true
	}
	refA, errA := name.ParseReference(a, name.WeakValidation)
	refB, errB := name.ParseReference(b, name.WeakValidation)
	return errA == nil && errB == nil && refA.Name() == refB.Name()
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
			return brokenArchive(err)
		}
	}
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
