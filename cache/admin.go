package cache

import (
	"context"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// Usage is what a cache takes, may take, and has done about it.
type Usage struct {
	// Used is what images, their disks and their records take; Limit bounds it, 0: no bound.
	Used, Limit Use
	// Pinned is the part of Used that images have which no pull evicts.
	Pinned Use
	// Free is what the file system of the cache has left, and Floor what no pull may take of it.
	Free, Floor Use
	// Counts are since the cache was opened.
	Counts Counts
}

// List returns all images, the most recently used first.
func (c *Cache) List(context.Context) ([]ImageInfo, error) { return c.store.List(), nil }

// Usage returns what the cache takes and may take.
func (c *Cache) Usage() (Usage, error) {
	usage := Usage{Limit: c.opts.limit(), Floor: c.room.Floor(), Counts: c.counters.Read()}
	var err error
	if usage.Free, err = c.room.Free(); err != nil {
		return Usage{}, err
	}
	usage.Used, usage.Pinned = c.store.Usage()
	return usage, nil
}

// Pull pulls an image for an administrator, whatever is in the cache; no lease remains.
func (c *Cache) Pull(ctx context.Context, req Request, log *joblog.Log) (Base, error) {
	req.PullPolicy, req.Holder = PullAlways, "airlock image pull"
	base, err := c.Base(ctx, req, log)
	if err == nil {
		c.store.Unlease(base.Digest, req.Holder)
	}
	return base, err
}

// Remove takes a name, or an image by its digest or an unambiguous beginning of it (at least 6 hex digits),
// out of the cache and returns the bytes freed. An image goes with its last name, pinned or not. Leased images
// stay: that is an administrator's error, as is an unknown one.
func (c *Cache) Remove(_ context.Context, image string) (freed int64, err error) {
	return c.store.Remove(image, c.nameOf)
}

// Pin keeps an image from being evicted by pulls, or with pinned false no longer. The image is named as in Remove.
// What an administrator imports, or names as a file of the host, is pinned without being asked for.
func (c *Cache) Pin(_ context.Context, image string, pinned bool) error {
	return c.store.Pin(image, pinned, c.nameOf)
}

// nameOf is the spelling by which records know an image's name.
func (c *Cache) nameOf(asked string) (string, error) {
	ref, err := image.Parse(asked, true, c.network.Lists)
	return ref.Name, err
}

// Release ends every lease of a holder. It cannot fail: unknown holders have none.
func (c *Cache) Release(holder string) { c.store.Release(holder) }

// Collect removes what nobody can ask for (images whose names moved on, layers of failed pulls) and then the
// least recently used images until the rest fits the limits. What is leased, pinned or being pulled stays, so the
// limits may be exceeded as long as that is so. An image takes its disk along. It runs by itself after every
// pull and every disk that was made; while they run they make room for themselves.
func (c *Cache) Collect(context.Context) (freed int64, err error) {
	return c.store.Collect(c.opts.limit())
}

// collect is Collect after something else, whose success does not hang on it.
func (c *Cache) collect(ctx context.Context) {
	if _, err := c.Collect(ctx); err != nil {
		c.log.Error().Err(err).Msg("collecting images")
	}
}

// measureLayers measures layers, and writes what they take into the records of their images.
func (c *Cache) measureLayers(ids []string) {
	for _, id := range ids {
		use, err := c.layers.Measure(c.life, id)
		if err == nil {
			err = c.store.Measured(id, use)
		}
		if err != nil {
			c.log.Warn().Err(err).Str("layer", id).Msg("a layer cannot be measured; the next start tries again")
		}
		if c.life.Err() != nil {
			return
		}
	}
	c.collect(c.life)
}
