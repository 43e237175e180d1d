package cache

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// ImageInfo describes an image in the cache.
type ImageInfo struct {
	Names  []string // sorted; names that were moved to another image are not among them
	Digest string
	// Use is what its layers, its disk and its records take, what it shares with other images included.
	Use Use
	// Created is when it came into the cache.
	Created, LastUsed time.Time
	// Leases is how many holders use it now.
	Leases int
	// Private images are authorised again for every job.
	Private bool
	// Pinned images are evicted by no pull.
	Pinned bool
}

// List returns all images, the most recently used first.
func (c *Cache) List(context.Context) ([]ImageInfo, error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]ImageInfo, 0, len(s.images))
	for _, image := range s.images {
		infos = append(infos, ImageInfo{Names: s.namesOf(image.Digest), Digest: image.Digest, Use: s.useOf(image),
			Created: image.Created, LastUsed: image.lastUsed, Leases: len(s.leases[image.Digest]), Private: image.private(),
			Pinned: image.pinned()})
	}
	slices.SortFunc(infos, func(a, b ImageInfo) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), strings.Compare(a.Digest, b.Digest))
	})
	return infos, nil
}

// Usage returns what the cache takes and may take.
func (c *Cache) Usage() (Usage, error) {
	usage := Usage{Limit: c.opts.limit(), Floor: c.room.floor, Counts: c.counters.read()}
	var err error
	if usage.Free, _, err = freeOf(c.opts.Dir); err != nil {
		return Usage{}, fault.Systemf("looking at the file system of %s: %w", c.opts.Dir, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	usage.Used = c.store.used()
	usage.Pinned = c.store.useIf((*imageRecord).pinned)
	return usage, nil
}

// Pull pulls an image for an administrator, whatever is in the cache; no lease remains.
func (c *Cache) Pull(ctx context.Context, req Request, log *joblog.Log) (Base, error) {
	req.PullPolicy, req.Holder = PullAlways, "airlock image pull"
	base, err := c.Base(ctx, req, log)
	if err == nil {
		c.store.unlease(base.Digest, req.Holder)
	}
	return base, err
}

// Remove takes a name, or an image by its digest or an unambiguous beginning of it (at least 6 hex digits),
// out of the cache and returns the bytes freed. An image goes with its last name, pinned or not. Leased images
// stay: that is an administrator's error, as is an unknown one.
func (c *Cache) Remove(_ context.Context, image string) (freed int64, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	name, digests, err := c.identify(image)
	if err != nil {
		return 0, err
	}
	before := s.used()
	var gone []string // those that have no other name
	for _, digest := range digests {
		if name != "" && len(s.namesOf(digest)) > 1 {
			continue
		}
		if holders := len(s.leases[digest]); holders > 0 {
			return 0, fault.WithRemedy(fault.Adminf("image %s is in use (sandboxes: %d)", image, holders), "try again when its jobs have ended")
		}
		gone = append(gone, digest)
	}
	for key, ref := range s.refs {
		if name != "" && ref.Name == name {
			if err := s.forgetName(key); err != nil {
				return 0, err
			}
		}
	}
	if len(gone) == 0 { // names take nothing worth telling
		before = s.used()
	}
	for _, digest := range gone {
		if err := s.forget(s.images[digest]); err != nil {
			return 0, err
		}
	}
	err = c.dropUnnamedLocked() // and what was imported under the name
	return before.minus(s.used()).Bytes, err
}

// identify finds what an administrator means: the images of a name, which are several where it leads to one for each
// kind of processor, or one by its digest. The caller holds the store's lock.
func (c *Cache) identify(image string) (name string, digests []string, err error) {
	unknown := fault.WithRemedy(fault.Adminf("image %s is not in the cache", withoutUser(image)), "see airlock image ls")
	if prefix := strings.TrimPrefix(image, "sha256:"); len(prefix) >= 6 && strings.Trim(prefix, "0123456789abcdef") == "" {
		for digest := range c.store.images {
			if strings.HasPrefix(digest, "sha256:"+prefix) {
				digests = append(digests, digest)
			}
		}
		switch {
		case len(digests) == 1:
			return "", digests, nil
		case len(digests) > 1:
			return "", nil, fault.WithRemedy(fault.Adminf("%d images begin with %s", len(digests), image), "give more digits")
		case prefix != image:
			return "", nil, unknown
		}
	}
	ref, err := c.parseReference(image, true)
	if err != nil {
		return "", nil, err
	}
	for _, record := range c.store.refs {
		if record.Name == ref.name && !slices.Contains(digests, record.Digest) {
			digests = append(digests, record.Digest)
		}
	}
	if len(digests) == 0 {
		return "", nil, unknown
	}
	return ref.name, digests, nil
}

// Collect removes what nobody can ask for (images whose names moved on, layers of failed pulls) and then the
// least recently used images until the rest fits the limits. What is leased, pinned or being pulled stays, so the
// limits may be exceeded as long as that is so. An image takes its disk along. It runs by itself after every
// pull and every disk that was made; while they run they make room for themselves.
func (c *Cache) Collect(context.Context) (freed int64, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.used()
	err = c.dropUnnamedLocked()
	for evicted := true; err == nil && evicted && s.used().exceeds(c.opts.limit()); {
		evicted, err = c.evictLocked()
	}
	return before.minus(s.used()).Bytes, err
}

// evict removes the least recently used image that may go, and reports whether there was one.
func (c *Cache) evict() bool {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	evicted, err := c.evictLocked()
	if err != nil {
		c.log.Error().Err(err).Msg("evicting an image")
	}
	return evicted
}

func (c *Cache) evictLocked() (evicted bool, err error) {
	oldest := c.store.leastRecentlyUsed()
	if oldest == nil {
		return false, nil
	}
	c.log.Info().Str("digest", oldest.Digest).Time("last_used", oldest.lastUsed).Msg("evicting an image")
	if err := c.store.forget(oldest); err != nil {
		return false, err
	}
	c.counters.evicted.Add(1)
	c.freeLayers()
	return true, nil
}

// dropUnnamed removes what nobody can ask for and nobody uses.
func (c *Cache) dropUnnamed() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if err := c.dropUnnamedLocked(); err != nil {
		c.log.Error().Err(err).Msg("removing what nobody can ask for")
	}
}

func (c *Cache) dropUnnamedLocked() error {
	s := c.store
	named := map[string]bool{}
	for _, ref := range s.refs {
		named[ref.Digest], named[ref.Imported] = true, true
	}
	for _, image := range s.images {
		if len(s.leases[image.Digest]) == 0 && !named[image.Digest] {
			if err := s.forget(image); err != nil {
				return err
			}
		}
	}
	c.freeLayers()
	return nil
}

// freeLayers discards the layers and disks that no image and no pull needs. The caller holds the store's lock.
func (c *Cache) freeLayers() {
	s := c.store
	needed := s.neededLayers(everyImage)
	for id := range s.layers {
		if !needed[id] {
			c.discardLayer(id)
			delete(s.layers, id)
		}
	}
	neededDisks := s.neededDisks(everyImage)
	for name := range s.disks {
		if !neededDisks[name] {
			c.discard(diskPath(s.dir, name))
			delete(s.disks, name)
		}
	}
}

func everyImage(*imageRecord) bool { return true }

// neededLayers are those of some images, and those that pulls rely on. The caller holds the lock.
func (s *store) neededLayers(of func(*imageRecord) bool) map[string]bool {
	needed := map[string]bool{}
	for _, image := range s.images {
		if !of(image) {
			continue
		}
		for _, l := range image.Layers {
			needed[l.DiffID] = true
		}
	}
	for id := range s.held {
		needed[id] = true
	}
	return needed
}

// used is what everything takes. The caller holds the lock.
func (s *store) used() (sum Use) {
	for _, l := range s.layers {
		sum = sum.plus(l.use)
	}
	for _, size := range s.disks {
		sum = sum.plus(diskUse(size))
	}
	for _, image := range s.images {
		sum = sum.plus(image.recordUse())
	}
	for range s.refs {
		sum = sum.plus(refUse)
	}
	return sum
}

func (s *store) totalUse() Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used()
}

// useIf is what some images take together, each layer once. The caller holds the lock.
func (s *store) useIf(of func(*imageRecord) bool) (sum Use) {
	layers, disks := map[string]bool{}, s.neededDisks(of)
	for _, image := range s.images {
		if !of(image) {
			continue
		}
		sum = sum.plus(image.recordUse())
		for _, l := range image.Layers {
			if known := s.layers[l.DiffID]; known != nil && !layers[l.DiffID] {
				layers[l.DiffID] = true
				sum = sum.plus(known.use)
			}
		}
	}
	for name, size := range s.disks {
		if disks[name] {
			sum = sum.plus(diskUse(size))
		}
	}
	return sum
}

// useOf is what one image takes. The caller holds the lock.
func (s *store) useOf(image *imageRecord) Use {
	use := s.useIf(func(other *imageRecord) bool { return other == image })
	for _, ref := range s.refs {
		if ref.Digest == image.Digest {
			use = use.plus(refUse)
		}
	}
	return use
}

// evictable is what would be freed if every image went that may.
func (s *store) evictable() Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	stays := func(image *imageRecord) bool { return !s.mayGo(image) }
	layers, disks := s.neededLayers(stays), s.neededDisks(stays)
	var sum Use
	for id, l := range s.layers {
		if !layers[id] {
			sum = sum.plus(l.use)
		}
	}
	for name, size := range s.disks {
		if !disks[name] {
			sum = sum.plus(diskUse(size))
		}
	}
	for _, image := range s.images {
		if s.mayGo(image) {
			sum = sum.plus(image.recordUse())
		}
	}
	return sum
}

// mayGo reports whether an image may be evicted. The caller holds the lock.
func (s *store) mayGo(image *imageRecord) bool {
	return len(s.leases[image.Digest]) == 0 && !image.pinned()
}

func (s *store) namesOf(digest string) []string {
	var names []string
	for _, ref := range s.refs {
		if ref.Digest == digest {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *store) leastRecentlyUsed() *imageRecord {
	var oldest *imageRecord
	for _, image := range s.images {
		if s.mayGo(image) && (oldest == nil || image.lastUsed.Before(oldest.lastUsed)) {
			oldest = image
		}
	}
	return oldest
}
