package cache

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// ImageInfo describes an image in the cache.
type ImageInfo struct {
	Names  []string // sorted; names that were moved to another image are not among them
	Digest string
	// Size is what its layers and its disk take, in bytes, what it shares with other images included.
	Size int64
	// Created is when it came into the cache.
	Created, LastUsed time.Time
	// Leases is how many holders use it now.
	Leases int
	// Private images are authorised again for every job.
	Private bool
}

// List returns all images, the most recently used first.
func (c *Cache) List(context.Context) ([]ImageInfo, error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]ImageInfo, 0, len(s.images))
	for _, image := range s.images {
		infos = append(infos, ImageInfo{Names: s.namesOf(image.Digest), Digest: image.Digest, Size: image.size() + s.disks[diskName(image.stack())],
			Created: image.Created, LastUsed: image.lastUsed, Leases: len(s.leases[image.Digest]), Private: image.private()})
	}
	slices.SortFunc(infos, func(a, b ImageInfo) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), strings.Compare(a.Digest, b.Digest))
	})
	return infos, nil
}

// Usage returns what the unpacked layers and the disks take, in bytes, and the limit (0: none).
func (c *Cache) Usage() (used, limit int64) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.used(), c.opts.DiskLimit
}

// Pull pulls an image for an administrator, whatever is in the cache; no lease remains.
func (c *Cache) Pull(ctx context.Context, req Request, progress io.Writer) (Base, error) {
	req.PullPolicy, req.Holder = PullAlways, "airlock image pull"
	base, err := c.Base(ctx, req, progress)
	if err == nil {
		c.store.unlease(base.Digest, req.Holder)
	}
	return base, err
}

// Remove takes a name, or an image by its digest or an unambiguous beginning of it (at least 6 hex digits),
// out of the cache and returns the bytes freed. An image goes with its last name. Leased images stay: that
// is an administrator's error, as is an unknown one.
func (c *Cache) Remove(_ context.Context, image string) (freed int64, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	name, digests, err := c.identify(image)
	if err != nil {
		return 0, err
	}
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
	for _, digest := range gone {
		if err := s.forget(s.images[digest]); err != nil {
			return 0, err
		}
	}
	return c.freeLayers(), nil
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
// least recently used images until the rest fits the disk limit. What is leased or being pulled stays, so the
// limit may be exceeded as long as that is in use. An image takes its disk along. It runs by itself after every
// pull and every disk that was made.
func (c *Cache) Collect(context.Context) (freed int64, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, image := range s.images {
		if len(s.leases[image.Digest]) == 0 && len(s.namesOf(image.Digest)) == 0 {
			if err := s.forget(image); err != nil {
				return freed, err
			}
		}
	}
	freed = c.freeLayers()
	for c.opts.DiskLimit > 0 && s.used() > c.opts.DiskLimit {
		oldest := s.leastRecentlyUsed()
		if oldest == nil {
			break
		}
		c.log.Info().Str("digest", oldest.Digest).Time("last_used", oldest.lastUsed).Msg("collecting an image")
		if err := s.forget(oldest); err != nil {
			return freed, err
		}
		freed += c.freeLayers()
	}
	return freed, nil
}

// freeLayers discards the layers and disks that no image and no pull needs. The caller holds the store's lock.
func (c *Cache) freeLayers() (freed int64) {
	s := c.store
	needed := map[string]bool{}
	for _, image := range s.images {
		for _, l := range image.Layers {
			needed[l.DiffID] = true
		}
	}
	for id, l := range s.layers {
		if !needed[id] && s.pins[id] == 0 {
			c.discardLayer(id)
			delete(s.layers, id)
			freed += l.size
		}
	}
	neededDisks := s.neededDisks()
	for name, size := range s.disks {
		if !neededDisks[name] {
			c.discard(diskPath(s.dir, name))
			delete(s.disks, name)
			freed += size
		}
	}
	return freed
}

func (s *store) used() (sum int64) {
	for _, l := range s.layers {
		sum += l.size
	}
	for _, size := range s.disks {
		sum += size
	}
	return sum
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
		if len(s.leases[image.Digest]) == 0 && (oldest == nil || image.lastUsed.Before(oldest.lastUsed)) {
			oldest = image
		}
	}
	return oldest
}
