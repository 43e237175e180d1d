package records

import (
	"os"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Pin keeps an image from being evicted, or with pinned false no longer. The image is named as in Remove.
func (s *Store) Pin(image string, pinned bool, parse NameParser) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, digests, err := s.identify(image, parse)
	if err != nil {
		return err
	}
	for _, digest := range digests {
		if err := s.pin(s.images[digest], pinned); err != nil {
			return err
		}
	}
	return nil
}

// PinDigest pins an image, or no longer, whose digest is known.
func (s *Store) PinDigest(digest string, pinned bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	image := s.images[digest]
	if image == nil {
		return fault.Systemf("image %s left the cache while it was being pinned", digest)
	}
	return s.pin(image, pinned)
}

// pin notes what an administrator said. The caller holds the lock.
func (s *Store) pin(image *Image, pinned bool) error {
	changed := *image
	changed.Pinned = &pinned
	return s.rewrite(&changed)
}

// rewrite puts a changed record in the place of an image's, which was not used by that. The caller holds the lock.
func (s *Store) rewrite(image *Image) (err error) {
	path := s.imagePath(image.Digest)
	if image.size, err = writeRecord(path, image); err != nil {
		return err
	}
	s.images[image.Digest] = image
	return os.Chtimes(path, image.lastUsed, image.lastUsed)
}
