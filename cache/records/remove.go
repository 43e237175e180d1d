package records

import (
	"slices"
	"strings"

	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/internal/fault"
)

// NameParser returns the spelling by which records know an image's name.
type NameParser func(image string) (name string, err error)

// Remove takes a name, or an image by its digest or an unambiguous beginning of it (at least 6 hex digits), out of the
// records and returns the bytes freed. An image goes with its last name, pinned or not. Leased images stay: that is an
// administrator's error, as is an unknown one.
func (s *Store) Remove(image string, parse NameParser) (freed int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, digests, err := s.identify(image, parse)
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
	err = s.dropUnnamed() // and what was imported under the name
	return before.Minus(s.used()).Bytes, err
}

// identify finds what an administrator means: the images of a name, which are several where it leads to one for each
// kind of processor, or one by its digest. The caller holds the lock.
func (s *Store) identify(asked string, parse NameParser) (name string, digests []string, err error) {
	unknown := fault.WithRemedy(fault.Adminf("image %s is not in the cache", image.WithoutUser(asked)), "see airlock image ls")
	if prefix := strings.TrimPrefix(asked, "sha256:"); len(prefix) >= 6 && strings.Trim(prefix, "0123456789abcdef") == "" {
		for digest := range s.images {
			if strings.HasPrefix(digest, "sha256:"+prefix) {
				digests = append(digests, digest)
			}
		}
		switch {
		case len(digests) == 1:
			return "", digests, nil
		case len(digests) > 1:
			return "", nil, fault.WithRemedy(fault.Adminf("%d images begin with %s", len(digests), asked), "give more digits")
		case prefix != asked:
			return "", nil, unknown
		}
	}
	if name, err = parse(asked); err != nil {
		return "", nil, err
	}
	for _, ref := range s.refs {
		if ref.Name == name && !slices.Contains(digests, ref.Digest) {
			digests = append(digests, ref.Digest)
		}
	}
	if len(digests) == 0 {
		return "", nil, unknown
	}
	return name, digests, nil
}
