package cache

import (
	"context"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/cache/registry"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// The pull policies, by GitLab Runner's names.
const (
	// PullAlways asks the registry every time; only what is missing here is transferred.
	PullAlways = "always"
	// PullIfNotPresent asks it only for images that are not here, and to authorise private ones.
	PullIfNotPresent = "if-not-present"
	// PullNever uses only what is here; private images are authorised all the same.
	PullNever = "never"
)

// Request asks for the base of an image.
type Request struct {
	// Image is "[registry/]repository[:tag][@digest]"; with AllowLocal also "oci:/layout[:tag][@digest]" or
	// "docker-archive:/file.tar".
	Image string
	// PullPolicy is one of the Pull constants.
	PullPolicy string
	// Holder is who keeps the base from being removed, until Release.
	Holder string
	// Credentials are tried on the image's registry, each on its own only. They are not kept.
	Credentials []Credentials
	// Form is what the base is for: FormDisk has its layers and its disk made.
	Form Form
	// Platform is what the job demands, in one of Docker's forms ("linux/arm64", "arm64"); empty: this host's.
	Platform string
	// Variant is the best variant of this host's architecture that the sandbox's processor is, as in "v3" for x86-64-v3;
	// empty: this host's processor's. Of what an index offers the best that it runs is taken.
	Variant string
	// AllowLocal is true when an administrator chose the image: only they may name files of the host.
	AllowLocal bool
}

// Base is a leased, read-only, unpacked image.
type Base struct {
	// Image is the request's.
	Image string
	// Digest is "sha256:..." of the manifest; of an image from a docker archive, which has no manifest, of
	// its configuration.
	Digest string
	// Layers are host directories, upper-most first, in overlayfs's format (whiteouts are character devices
	// 0/0, opaque directories carry trusted.overlay.opaque); on Windows, layers of the Host Compute Service. No layers
	// make an empty root.
	Layers []string
	// Disk, with FormDisk, is a file of DiskSize bytes with a read-only ext4 file system that holds what an overlay
	// of the layers would show, and a /lost+found, whose time is 0 unless the image has one. The file is mode 0444 in a directory that only root may
	// search: hand it on as a descriptor.
	Disk   string
	Config Config
	// Pulled is false when nothing had to be unpacked.
	Pulled bool
	// Warnings say what of the image a sandbox does not have. Each is one warning for the job log.
	Warnings []string
	// Bytes is what was transferred of layers for this request or for others that waited with it.
	Bytes int64
}

// Base resolves an image, authorises it, pulls and unpacks what is not here, and leases it to the holder.
// It tells log about a pull, and about making a disk if that takes long. A failed Base leaves no lease. Errors are the
// author's (no such image, access denied, a broken or foreign image) or the system's (network, disk).
func (c *Cache) Base(ctx context.Context, req Request, log *joblog.Log) (Base, error) {
	ref, err := image.Parse(req.Image, req.AllowLocal, c.network.Lists)
	if err != nil {
		return Base{}, err
	}
	ctx, cancel := c.boundPull(ctx, ref)
	defer cancel()
	platform, err := image.PlatformFor(req.Image, req.Platform, req.Variant)
	if err != nil {
		return Base{}, err
	}
	base, err := c.unpacked(ctx, ref, platform, req, log)
	if err != nil {
		return base, err
	}
	record := c.store.Image(base.Digest)
	switch {
	case record == nil: // another hand took its layers, and somebody noticed
		err = fault.Systemf("image %s left the cache while it was in use", ref.Asked)
	case !image.RunsOn(record.Platform(platform), platform): // it came for another level
		err = image.WrongPlatform(ref, []string{record.Platform(platform).String()}, platform)
	case req.Form == FormDisk:
		base.Disk, err = c.disk(ctx, ref.Asked, record, log)
	}
	if err != nil {
		c.store.Unlease(base.Digest, req.Holder)
		return Base{}, err
	}
	return base, nil
}

// unpacked leases the unpacked layers of an image.
func (c *Cache) unpacked(ctx context.Context, ref image.Reference, platform v1.Platform, req Request, log *joblog.Log) (Base, error) {
	switch req.PullPolicy {
	case PullAlways:
	case PullIfNotPresent, PullNever:
		base, found, err := c.present(ctx, ref, platform, req)
		if found || err != nil {
			return base, err
		}
	default:
		return Base{}, fault.WithRemedy(fault.Authorf("unknown pull policy %q", req.PullPolicy),
			"use always, if-not-present or never")
	}
	return c.pull(ctx, ref, platform, req, log)
}

// present gives the base of an image that is in the cache, if the job may have it.
func (c *Cache) present(ctx context.Context, ref image.Reference, platform v1.Platform, req Request) (base Base, found bool, err error) {
	image, record, err := c.store.Find(ref.Name, platform.Variant, req.Holder)
	if err != nil {
		return Base{}, false, err
	}
	if image != nil {
		err = c.authorise(ctx, ref, image, record, req.Credentials)
		if err == nil {
			return c.base(ref, image), true, nil
		}
		c.store.Unlease(image.Digest, req.Holder)
		if !registry.IsGone(err) || req.PullPolicy == PullNever {
			return Base{}, false, registry.Fault(ctx, ref, err)
		}
		// The registry has no such manifest any more; its name may lead to another one.
		return Base{}, false, nil
	}
	if req.PullPolicy == PullNever {
		return Base{}, false, fault.WithRemedy(
			fault.Authorf("image %s is not in this runner's cache, and the pull policy is never", ref.Asked),
			"use another pull policy, or ask the administrator to run airlock image pull")
	}
	return Base{}, false, nil
}

// authorise asks a private image's registry whether these credentials open it.
func (c *Cache) authorise(ctx context.Context, ref image.Reference, image *records.Image, record *records.Ref, creds []Credentials) error {
	if private, known := image.Repos[record.Repo]; known && !private {
		return nil
	}
	if ref.Remote == nil {
		return fault.Systemf("image %s is recorded as private but has no registry", ref.Asked)
	}
	return c.network.Dial(ref, creds).Head(ctx, image.Digest)
}

func (c *Cache) base(ref image.Reference, image *records.Image) Base {
	stack := image.Stack()
	layers := make([]string, len(stack))
	for i, id := range stack {
		layers[i] = c.layers.Root(id)
	}
	return Base{Image: ref.Asked, Digest: image.Digest, Layers: layers, Config: image.Config, Warnings: image.Warnings(ref.Asked)}
}
