package records

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/cache/space"
)

// Info describes an image in the cache.
type Info struct {
	Names  []string // sorted; names that were moved to another image are not among them
	Digest string
	// Use is what its layers, its disk and its records take, what it shares with other images included.
	Use space.Use
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
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]Info, 0, len(s.images))
	for _, image := range s.images {
		infos = append(infos, Info{Names: s.namesOf(image.Digest), Digest: image.Digest, Use: s.useOf(image),
			Created: image.Created, LastUsed: image.lastUsed, Leases: len(s.leases[image.Digest]), Private: image.private(),
			Pinned: image.pinned()})
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), strings.Compare(a.Digest, b.Digest))
	})
	return infos
}

func (s *Store) namesOf(digest string) []string {
	var names []string
	for _, ref := range s.refs {
		if ref.Digest == digest {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
