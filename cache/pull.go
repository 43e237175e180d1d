package cache

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/airlock-ci/airlock/cache/archive"
	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/layer"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/cache/registry"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// pull is the work of fetching one image, watched by all who wait for it.
type pull struct {
	ref      image.Reference
	platform v1.Platform
	content  *image.Content
	repo     string
	private  bool

	total, done atomic.Int64 // bytes of layers to transfer, and transferred
	missing     atomic.Int64 // layers to transfer; -1 until that is known
	started     time.Time
	image       *records.Image // when done
}

func newPull(ref image.Reference, platform v1.Platform, found *image.Content) *pull {
	p := &pull{ref: ref, platform: platform, content: found, repo: ref.Repo, started: time.Now()}
	p.missing.Store(-1)
	return p
}

// boundPull gives a pull its deadline.
func (c *Cache) boundPull(ctx context.Context, ref image.Reference) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.opts.PullTimeout,
		fault.Systemf("pulling %s: not done after %s (pull_timeout)", ref.Asked, c.opts.PullTimeout))
}

// pull asks the origin what the reference leads to, which authorises the job too, and fetches what is not here.
func (c *Cache) pull(ctx context.Context, ref image.Reference, platform v1.Platform, req Request, log *joblog.Log) (Base, error) {
	p, image, err := c.resolve(ctx, ref, platform, req)
	if err != nil {
		return Base{}, c.pullFault(ctx, ref, err)
	}
	if image != nil {
		return c.base(ref, image), nil
	}
	return c.await(ctx, p, req.Holder, log)
}

// await joins or starts the pull and waits for it, the image leased to holder; then it names the image.
func (c *Cache) await(ctx context.Context, p *pull, holder string, log *joblog.Log) (Base, error) {
	ref, digest := p.ref, p.content.Digest
	resolved := records.Ref{Name: ref.Name, Resolved: p.content.Resolved, Digest: digest, Repo: p.repo}
	if p.content.Varies {
		resolved.Variant = p.platform.Variant
	}
	c.store.Lease(digest, holder)
	key := p.repo + "\n" + digest + "\n" + p.platform.Variant
	flight, _ := c.pulls.Join(key, p, c.fetch)
	shared := flight.State
	report := &report{to: log, pull: shared, image: ref.Asked}
	err := flight.Watch(ctx, time.Second/10, report.tick)
	if err == nil {
		err = c.store.Point(&resolved)
	}
	if err != nil {
		c.store.Unlease(digest, holder)
		return Base{}, c.pullFault(ctx, ref, err)
	}
	report.end()
	base := c.base(ref, shared.image)
	base.Pulled, base.Bytes = shared.missing.Load() > 0, shared.done.Load()
	if base.Pulled {
		c.collect(ctx)
	}
	return base, nil
}

func (c *Cache) pullFault(ctx context.Context, ref image.Reference, err error) error {
	if ref.Remote != nil {
		return registry.Fault(ctx, ref, err)
	}
	return fmt.Errorf("reading %s: %w", ref.Asked, err)
}

// resolve returns the leased image when the registry's answer is that it is here, else the work to do.
func (c *Cache) resolve(ctx context.Context, ref image.Reference, platform v1.Platform, req Request) (*pull, *records.Image, error) {
	if ref.Remote == nil {
		found, err := archive.LookUp(ctx, ref, platform)
		return newPull(ref, platform, found), nil, err
	}
	registry := c.network.Dial(ref, req.Credentials)
	if digest, err := registry.Resolve(ctx); err == nil {
		image, record, err := c.store.Find(ref.Name, platform.Variant, req.Holder)
		if err != nil {
			return nil, nil, err
		}
		if image != nil && record.Resolved == digest && record.Repo == ref.Repo {
			return nil, image, nil
		}
		if image != nil {
			c.store.Unlease(image.Digest, req.Holder)
		}
	}
	found, err := image.LookUp(ctx, ref, platform, registry)
	if err != nil {
		return nil, nil, err
	}
	p := newPull(ref, platform, found)
	if !registry.Anonymous() {
		p.private = c.network.Dial(ref, nil).Head(ctx, found.Digest) != nil // doubt counts as private
	}
	return p, nil, nil
}

// fetch makes all layers of an image present and then its record.
func (c *Cache) fetch(ctx context.Context, p *pull) (err error) {
	ctx, cancel := c.boundPull(ctx, p.ref)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // says more than what the cancelled calls say
		}
	}()
	if p.image = c.store.Delivered(p.content.Digest, p.repo, p.private); p.image != nil {
		p.missing.Store(0)
		return nil
	}
	config, err := p.content.ReadConfig(ctx, p.ref, p.platform)
	if err != nil {
		return err
	}
	image := newImageRecord(p, config)
	ids := layer.IDs(config.RootFS.DiffIDs)
	release := c.holdAll(ids)
	defer release()
	if image.Layers, err = c.fetchLayers(ctx, p, config); err != nil {
		return err
	}
	if err := failpoint.Hit("cache-commit"); err != nil {
		return err
	}
	if p.missing.Load() > 0 {
		// Once for the whole image: only its record makes its layers count.
		if err := c.layers.Sync(); err != nil {
			return err
		}
	}
	claim := c.room.Claim()
	defer claim.End()
	if err := claim.Take(ctx, records.WrittenUse(image).Plus(records.RefUse)); err != nil {
		return err
	}
	if err := c.store.Commit(image); err != nil {
		return err
	}
	p.image = image
	c.log.Info().Str("image", p.ref.Asked).Str("digest", image.Digest).Bool("private", p.private).
		Int64("bytes", p.done.Load()).Dur("took", time.Since(p.started)).Msg("image is in the cache")
	return nil
}

// newImageRecord is the record of an image whose layers are still to come.
func newImageRecord(p *pull, config *v1.ConfigFile) *records.Image {
	image := &records.Image{Digest: p.content.Digest, Created: time.Now(), Variant: image.PlatformOf(config, p.platform).Variant,
		Repos: map[string]bool{p.repo: p.private}, Format: records.Format,
		Config: Config{User: config.Config.User, WorkingDir: config.Config.WorkingDir, OSVersion: config.OSVersion}}
	for _, entry := range config.Config.Env {
		name, _, found := strings.Cut(entry, "=")
		if !found || name == "" || strings.Contains(entry, "\x00") {
			image.Omitted.Add(layer.OmittedEnvironment, strconv.Quote(name)) // a value may be a secret
			continue
		}
		image.Config.Env = append(image.Config.Env, entry)
	}
	return image
}
