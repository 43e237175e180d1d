package records

import (
	"github.com/airlock-ci/airlock/cache/layer"
)

// Lease keeps an image, there already or not yet, from being removed until the holder gives it back.
func (s *Store) Lease(digest, holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseLocked(digest, holder)
}

func (s *Store) leaseLocked(digest, holder string) {
	if s.leases[digest] == nil {
		s.leases[digest] = map[string]int{}
	}
	s.leases[digest][holder]++
}

// Unlease takes one lease back.
func (s *Store) Unlease(digest, holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	holders := s.leases[digest]
	switch holders[holder] {
	case 0: // a Release came between
		return
	case 1:
		delete(holders, holder)
	default:
		holders[holder]--
	}
	if len(holders) == 0 {
		delete(s.leases, digest)
	}
}

// Release ends every lease of a holder. It cannot fail: unknown holders have none.
func (s *Store) Release(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for digest, holders := range s.leases {
		if holders[holder] == 0 {
			continue
		}
		delete(holders, holder)
		if len(holders) == 0 {
			delete(s.leases, digest)
		}
		if image := s.images[digest]; image != nil {
			s.touch(image)
		}
	}
}

// Find returns the image that a name leads to on a processor, leased to holder, or nil. An image that lost layers to
// another hand is forgotten.
func (s *Store) Find(name, variant, holder string) (*Image, *Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref := s.refs[refKey(name, variant)]
	if ref == nil {
		ref = s.refs[name]
	}
	if ref == nil {
		return nil, nil, nil
	}
	image := s.images[ref.Digest]
	if !s.complete(image) {
		return nil, nil, s.forgetIncomplete(image)
	}
	s.leaseLocked(ref.Digest, holder)
	s.touch(image)
	return image, ref, nil
}

func (s *Store) forgetIncomplete(image *Image) error {
	for _, l := range image.Layers {
		if !s.complete(&Image{Layers: []Layer{l}}) {
			delete(s.layers, l.DiffID)
		}
	}
	return s.forget(image)
}

// Hold keeps a layer, there already or not yet, from being removed while a pull relies on it.
func (s *Store) Hold(diffID string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[diffID] += by
	if s.held[diffID] == 0 {
		delete(s.held, diffID)
	}
}

// Delivered returns the image if that repository delivered it before, as private as now.
func (s *Store) Delivered(digest, repo string, private bool) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	image := s.images[digest]
	if image == nil || !s.complete(image) {
		return nil
	}
	if was, known := image.Repos[repo]; !known || was != private {
		return nil
	}
	return image
}

// Usable returns what a layer is like if it is there and an image of repo may use it as it is.
func (s *Store) Usable(diffID, repo string) (stored layer.Stored, usable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.layers[diffID]
	if known == nil || !known.grants(repo) || !s.complete(&Image{Layers: []Layer{{DiffID: diffID}}}) {
		return layer.Stored{}, false
	}
	return known.Stored, true
}

// Has reports whether a layer is there, whether or not every image may use it.
func (s *Store) Has(diffID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[diffID] != nil && s.complete(&Image{Layers: []Layer{{DiffID: diffID}}})
}

// Grant notes that repo delivered a layer that is complete on disk; stored counts if the layer is new.
func (s *Store) Grant(diffID string, stored layer.Stored, repo string, private bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLayer(diffID, stored, map[string]bool{repo: private})
}
