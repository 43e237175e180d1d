package records

import (
	"slices"

	"github.com/airlock-ci/airlock/cache/space"
)

// Unmeasured are the layers whose records an older version wrote: it counted what files contain, and no inodes.
func (s *Store) Unmeasured() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.layers {
		if space.CountsInodes && l.Use.Inodes == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// Measured takes over what a layer was found to take.
func (s *Store) Measured(id string, use space.Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.layers[id]; known != nil {
		known.Use = use
	}
	isIt := func(l Layer) bool { return l.DiffID == id }
	for _, image := range s.images {
		if !slices.ContainsFunc(image.Layers, isIt) {
			continue
		}
		changed := *image
		changed.Layers = slices.Clone(image.Layers)
		for i := range changed.Layers {
			if isIt(changed.Layers[i]) {
				changed.Layers[i].Size, changed.Layers[i].Inodes = use.Bytes, use.Inodes
			}
		}
		if err := s.rewrite(&changed); err != nil {
			return err
		}
	}
	return nil
}
