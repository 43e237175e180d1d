package cache

import "slices"

// unmeasured are the layers whose records an older version wrote: it counted what files contain, and no inodes. The
// caller is alone.
func (s *store) unmeasured() (ids []string) {
	for id, l := range s.layers {
		if countsInodes && l.use.Inodes == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// measureLayers measures layers, and writes what they take into the records of their images.
func (c *Cache) measureLayers(ids []string) {
	for _, id := range ids {
		use, err := c.measureLayer(c.life, id)
		if err == nil {
			err = c.store.measured(id, use)
		}
		if err != nil {
			c.log.Warn().Err(err).Str("layer", id).Msg("a layer cannot be measured; the next start tries again")
		}
		if c.life.Err() != nil {
			return
		}
	}
	if _, err := c.Collect(c.life); err != nil {
		c.log.Error().Err(err).Msg("collecting images")
	}
}

// measured takes over what a layer was found to take.
func (s *store) measured(id string, use Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.layers[id]; known != nil {
		known.use = use
	}
	isIt := func(l layerRecord) bool { return l.DiffID == id }
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
