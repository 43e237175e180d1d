package cache

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/cache/archive"
	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/untrusted"
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
	dir, err := os.MkdirTemp(c.path("ingest"), "")
	if err != nil {
		return Base{}, fault.Systemf("importing: %w", err)
	}
	defer c.trash.Discard(dir)
	file := filepath.Join(dir, "image.tar")
	claim := c.room.Claim()
	defer claim.End()
	if err := archive.Spool(file, untrusted.Interruptible(ctx, stream), claim.Writing(ctx), c.opts.MaxUnpacked); err != nil {
		return Base{}, err
	}
	choice := archive.Choice{Pick: req.Pick, Name: req.Name, Remedy: "pick one: airlock image import --name IMAGE FILE"}
	found, itsName, err := archive.OpenTar(ctx, file, filepath.Join(dir, "layout"), choice, claim.Writing(ctx))
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
	ref, err := image.Parse(known, false, c.network.Lists)
	if err != nil {
		return Base{}, err
	}
	ref.Repo, ref.Remote = "", nil // the administrator's, not a registry's
	const holder = "airlock image import"
	base, err := c.await(ctx, newPull(ref, image.LeastPlatform(), found), holder, log)
	if err != nil {
		return Base{}, err
	}
	defer c.store.Unlease(base.Digest, holder)
	return base, c.store.PinDigest(base.Digest, true)
}
