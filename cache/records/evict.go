package records

import (
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/cache/space"
)

// Collect removes what nobody can ask for and then the least recently used images until the rest fits the limit, or
// nothing more may go. It returns the bytes freed.
func (s *Store) Collect(limit space.Use) (freed int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.used()
	err = s.dropUnnamed()
	for evicted := true; err == nil && evicted && s.used().Exceeds(limit); {
		evicted, err = s.evict()
	}
	return before.Minus(s.used()).Bytes, err
}

// Evict removes the least recently used image that may go, and reports whether there was one.
func (s *Store) Evict() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	evicted, err := s.evict()
	if err != nil {
		s.log.Error().Err(err).Msg("evicting an image")
	}
	return evicted
}

func (s *Store) evict() (evicted bool, err error) {
	oldest := s.leastRecentlyUsed()
	if oldest == nil {
		return false, nil
	}
	s.log.Info().Str("digest", oldest.Digest).Time("last_used", oldest.lastUsed).Msg("evicting an image")
	if err := s.forget(oldest); err != nil {
		return false, err
	}
	s.evicted.Add(1)
	s.freeLayers()
	return true, nil
}

func (s *Store) leastRecentlyUsed() *Image {
	var oldest *Image
	for _, image := range s.images {
		if s.mayGo(image) && (oldest == nil || image.lastUsed.Before(oldest.lastUsed)) {
			oldest = image
		}
	}
	return oldest
}

// mayGo reports whether an image may be evicted. The caller holds the lock.
func (s *Store) mayGo(image *Image) bool {
	return len(s.leases[image.Digest]) == 0 && !image.pinned()
}

// DropUnnamed removes what nobody can ask for and nobody uses: images whose names moved on, layers of failed pulls.
func (s *Store) DropUnnamed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dropUnnamed(); err != nil {
		s.log.Error().Err(err).Msg("removing what nobody can ask for")
	}
}

func (s *Store) dropUnnamed() error {
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
	s.freeLayers()
	return nil
}

// freeLayers discards the layers and disks that no image and no pull needs. The caller holds the lock.
func (s *Store) freeLayers() {
	needed := s.neededLayers(everyImage)
	for id := range s.layers {
		if !needed[id] {
			s.contents.Discard(id)
			delete(s.layers, id)
		}
	}
	neededDisks := s.neededDisks(everyImage)
	for name := range s.disks {
		if !neededDisks[name] {
			s.contents.DiscardDisk(name)
			delete(s.disks, name)
		}
	}
}

// DropStray discards, at the start, the disks that no image needs and those of some layers that no record names.
func (s *Store) DropStray(layers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range layers {
		if s.layers[id] == nil {
			s.contents.Discard(id)
		}
	}
	entries, _ := os.ReadDir(filepath.Join(s.dir, "disks"))
	for _, e := range entries {
		if _, known := s.disks[e.Name()]; !known {
			s.contents.DiscardDisk(e.Name())
		}
	}
}

func everyImage(*Image) bool { return true }

// neededLayers are those of some images, and those that pulls rely on. The caller holds the lock.
func (s *Store) neededLayers(of func(*Image) bool) map[string]bool {
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
