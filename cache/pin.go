package cache

import (
	"context"
	"os"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Pin keeps an image from being evicted by pulls, or with pinned false no longer. The image is named as in Remove.
// What an administrator imports, or names as a file of the host, is pinned without being asked for.
func (c *Cache) Pin(_ context.Context, image string, pinned bool) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	_, digests, err := c.identify(image)
	if err != nil {
		return err
	}
	for _, digest := range digests {
		if err := c.store.pin(c.store.images[digest], pinned); err != nil {
			return err
		}
	}
	return nil
}

// pinDigest pins an image, or no longer, whose digest is known.
func (s *store) pinDigest(digest string, pinned bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	image := s.images[digest]
	if image == nil {
		return fault.Systemf("image %s left the cache while it was being pinned", digest)
	}
	return s.pin(image, pinned)
}

// pin notes what an administrator said. The caller holds the lock.
func (s *store) pin(image *imageRecord, pinned bool) error {
	changed := *image
	changed.Pinned = &pinned
	return s.rewrite(&changed)
}

// rewrite puts a changed record in the place of an image's, which was not used by that. The caller holds the lock.
func (s *store) rewrite(image *imageRecord) (err error) {
	path := s.imagePath(image.Digest)
	if image.size, err = writeRecord(path, image); err != nil {
		return err
	}
	s.images[image.Digest] = image
	return os.Chtimes(path, image.lastUsed, image.lastUsed)
}
