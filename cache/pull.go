package cache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// pull is the work of fetching one image, watched by all who wait for it.
type pull struct {
	ref      reference
	platform v1.Platform
	content  *content
	repo     string
	private  bool

	total, done atomic.Int64 // bytes of layers to transfer, and transferred
	missing     atomic.Int64 // layers to transfer; -1 until that is known
	started     time.Time
	image       *imageRecord // when done
}

func newPull(ref reference, platform v1.Platform, found *content) *pull {
	p := &pull{ref: ref, platform: platform, content: found, repo: ref.repo, started: time.Now()}
	p.missing.Store(-1)
	return p
}

// boundPull gives a pull its deadline.
func (c *Cache) boundPull(ctx context.Context, ref reference) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.opts.PullTimeout,
		fault.Systemf("pulling %s: not done after %s (pull_timeout)", ref.asked, c.opts.PullTimeout))
}

// pull asks the origin what the reference leads to, which authorises the job too, and fetches what is not here.
func (c *Cache) pull(ctx context.Context, ref reference, platform v1.Platform, req Request, log *joblog.Log) (Base, error) {
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
	ref, digest := p.ref, p.content.digest
	resolved := refRecord{Name: ref.name, Resolved: p.content.resolved, Digest: digest, Repo: p.repo}
	if p.content.varies {
		resolved.Variant = p.platform.Variant
	}
	c.store.lease(digest, holder)
	key := p.repo + "\n" + digest + "\n" + p.platform.Variant
	flight, _ := c.pulls.join(key, func() *pull { return p }, c.fetch)
	shared := flight.state
	report := &report{to: log, pull: shared, image: ref.asked}
	err := c.pulls.wait(ctx, key, flight, time.Second/10, report.tick)
	if err == nil {
		err = c.store.point(&resolved)
	}
	if err != nil {
		c.store.unlease(digest, holder)
		return Base{}, c.pullFault(ctx, ref, err)
	}
	report.end()
	base := c.base(ref, shared.image)
	base.Pulled, base.Bytes = shared.missing.Load() > 0, shared.done.Load()
	if base.Pulled {
		if _, err := c.Collect(ctx); err != nil {
			c.log.Error().Err(err).Msg("collecting images")
		}
	}
	return base, nil
}

func (c *Cache) pullFault(ctx context.Context, ref reference, err error) error {
	if ref.remote != nil {
		return registryFault(ctx, ref, err)
	}
	return fmt.Errorf("reading %s: %w", ref.asked, err)
}

// resolve returns the leased image when the registry's answer is that it is here, else the work to do.
func (c *Cache) resolve(ctx context.Context, ref reference, platform v1.Platform, req Request) (*pull, *imageRecord, error) {
	if ref.remote == nil {
		found, err := lookUpLocal(ctx, ref, platform)
		return newPull(ref, platform, found), nil, err
	}
	auth := authenticator(ref.remote.Context().RegistryStr(), req.Credentials)
	registry := c.dial(ref, auth)
	if digest, err := registry.resolve(ctx); err == nil {
		image, record, err := c.store.find(ref.name, platform.Variant, req.Holder)
		if err != nil {
			return nil, nil, err
		}
		if image != nil && record.Resolved == digest && record.Repo == ref.repo {
			return nil, image, nil
		}
		if image != nil {
			c.store.unlease(image.Digest, req.Holder)
		}
	}
	found, err := lookUp(ctx, ref, platform, registry)
	if err != nil {
		return nil, nil, err
	}
	p := newPull(ref, platform, found)
	if auth != nil {
		p.private = c.dial(ref, nil).head(ctx, found.digest) != nil // doubt counts as private
	}
	return p, nil, nil
}

func lookUpLocal(ctx context.Context, ref reference, platform v1.Platform) (*content, error) {
	if ref.local.archive {
		found, _, err := openArchive(ref.local.path, choice{pick: ref.local.tag, remedy: "name one: " + archivePrefix + ref.local.path + ":IMAGE"})
		return found, err
	}
	from, err := openLayout(ref.local)
	if err != nil {
		return nil, err
	}
	return lookUp(ctx, ref, platform, from)
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
	if p.image = c.store.delivered(p.content.digest, p.repo, p.private); p.image != nil {
		p.missing.Store(0)
		return nil
	}
	config, err := p.content.readConfig(ctx, p.ref, p.platform)
	if err != nil {
		return err
	}
	image := newImageRecord(p, config)
	ids := layerIDs(config.RootFS.DiffIDs)
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
		if err := syncFileSystem(c.opts.Dir); err != nil {
			return err
		}
	}
	claim := c.room.claim()
	defer claim.end()
	if err := claim.take(ctx, writtenUse(image).plus(refUse)); err != nil {
		return err
	}
	if err := c.store.commit(image); err != nil {
		return err
	}
	p.image = image
	c.log.Info().Str("image", p.ref.asked).Str("digest", image.Digest).Bool("private", p.private).
		Int64("bytes", p.done.Load()).Dur("took", time.Since(p.started)).Msg("image is in the cache")
	return nil
}

// newImageRecord is the record of an image whose layers are still to come.
func newImageRecord(p *pull, config *v1.ConfigFile) *imageRecord {
	image := &imageRecord{Digest: p.content.digest, Created: time.Now(), Variant: platformOf(config, p.platform).Variant,
		Repos: map[string]bool{p.repo: p.private}, Format: recordFormat,
		Config: Config{User: config.Config.User, WorkingDir: config.Config.WorkingDir, OSVersion: config.OSVersion}}
	for _, entry := range config.Config.Env {
		name, _, found := strings.Cut(entry, "=")
		if !found || name == "" || strings.Contains(entry, "\x00") {
			image.Omitted.add(omittedEnvironment, strconv.Quote(name)) // a value may be a secret
			continue
		}
		image.Config.Env = append(image.Config.Env, entry)
	}
	return image
}

// holdAll keeps layers from being removed until release, which removes those that no image has by then.
func (c *Cache) holdAll(ids []string) (release func()) {
	for _, id := range ids {
		c.store.hold(id, 1)
	}
	return func() {
		for _, id := range ids {
			c.store.hold(id, -1)
		}
		c.dropUnnamed()
	}
}

// fetchLayers makes an image's layers present: what is missing is transferred, a few layers at a time.
func (c *Cache) fetchLayers(ctx context.Context, p *pull, config *v1.ConfigFile) ([]layerRecord, error) {
	records := make([]layerRecord, len(p.content.layers))
	var missing []int
	ids := layerIDs(config.RootFS.DiffIDs)
	for i, src := range p.content.layers {
		records[i].DiffID = ids[i]
		stored, usable := c.store.usable(records[i].DiffID, p.repo)
		if records[i].is(stored); !usable {
			missing = append(missing, i)
			p.total.Add(src.blob.Size)
		}
	}
	p.missing.Store(int64(len(missing)))
	present := newPresence(len(records), missing)
	left := newBudget(c.opts.MaxUnpacked, c.opts.MaxEntries)
	left.image.counted = &c.counters
	if err := left.image.take((&imageRecord{Layers: records}).use()); err != nil { // those that are here
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for _, i := range missing {
		group.Go(func() error {
			wanted := wantedLayer{source: p.content.layers[i], diffID: config.RootFS.DiffIDs[i].String(), id: ids[i], below: ids[:i],
				awaitBelow: func(ctx context.Context) error { return present.await(ctx, i) }}
			stored, err := c.fetchLayer(ctx, p, wanted, left)
			records[i].is(stored)
			present.set(i, err)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// Layers that other pulls transferred at the same time were taken from their budgets.
	if all := (&imageRecord{Layers: records}).use(); all.exceeds(left.image.limit) {
		return nil, left.image.take(all)
	}
	return records, nil
}

// presence tells which of an image's layers are there, as they come. A layer may be transferred and unpacked before those
// below it, but it is fitted to them.
type presence struct {
	done []chan struct{} // closed when the layer is there or will not come
	errs []error         // valid then
}

func newPresence(layers int, missing []int) *presence {
	p := &presence{done: make([]chan struct{}, layers), errs: make([]error, layers)}
	for i := range p.done {
		p.done[i] = make(chan struct{})
		if !slices.Contains(missing, i) {
			close(p.done[i])
		}
	}
	return p
}

func (p *presence) set(layer int, err error) {
	p.errs[layer] = err
	close(p.done[layer])
}

// await waits for all layers below one.
func (p *presence) await(ctx context.Context, layer int) error {
	for i := range layer {
		select {
		case <-p.done[i]:
			if p.errs[i] != nil {
				return p.errs[i] // the pull fails with that
			}
		case <-ctx.Done():
			return fault.Systemf("interrupted: %w", context.Cause(ctx))
		}
	}
	return nil
}
