package records

import (
	"github.com/airlock-ci/airlock/cache/space"
)

// used is TotalUse. The caller holds the lock.
func (s *Store) used() (sum space.Use) {
	for _, l := range s.layers {
		sum = sum.Plus(l.Use)
	}
	for _, size := range s.disks {
		sum = sum.Plus(diskUse(size))
	}
	for _, image := range s.images {
		sum = sum.Plus(image.recordUse())
	}
	for range s.refs {
		sum = sum.Plus(RefUse)
	}
	return sum
}

// TotalUse is what everything takes.
func (s *Store) TotalUse() space.Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used()
}

// useIf is what some images take together, each layer once. The caller holds the lock.
func (s *Store) useIf(of func(*Image) bool) (sum space.Use) {
	layers, disks := map[string]bool{}, s.neededDisks(of)
	for _, image := range s.images {
		if !of(image) {
			continue
		}
		sum = sum.Plus(image.recordUse())
		for _, l := range image.Layers {
			if known := s.layers[l.DiffID]; known != nil && !layers[l.DiffID] {
				layers[l.DiffID] = true
				sum = sum.Plus(known.Use)
			}
		}
	}
	for name, size := range s.disks {
		if disks[name] {
			sum = sum.Plus(diskUse(size))
		}
	}
	return sum
}

// useOf is what one image takes. The caller holds the lock.
func (s *Store) useOf(image *Image) space.Use {
	use := s.useIf(func(other *Image) bool { return other == image })
	for _, ref := range s.refs {
		if ref.Digest == image.Digest {
			use = use.Plus(RefUse)
		}
	}
	return use
}

// Evictable is what would be freed if every image went that may.
func (s *Store) Evictable() space.Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	stays := func(image *Image) bool { return !s.mayGo(image) }
	layers, disks := s.neededLayers(stays), s.neededDisks(stays)
	var sum space.Use
	for id, l := range s.layers {
		if !layers[id] {
			sum = sum.Plus(l.Use)
		}
	}
	for name, size := range s.disks {
		if !disks[name] {
			sum = sum.Plus(diskUse(size))
		}
	}
	for _, image := range s.images {
		if s.mayGo(image) {
			sum = sum.Plus(image.recordUse())
		}
	}
	return sum
}

// Usage is what everything takes, and the part of it that pinned images have.
func (s *Store) Usage() (used, pinned space.Use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used(), s.useIf((*Image).pinned)
}
