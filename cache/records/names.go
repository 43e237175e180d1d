package records

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func (s *Store) refPath(key string) string {
	hash := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, "refs", hex.EncodeToString(hash[:])+".json")
}

// Point makes a name lead to an image.
func (s *Store) Point(ref *Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[ref.Digest] == nil {
		return fmt.Errorf("image %s left the cache while it was being named", ref.Digest)
	}
	ref.Imported = s.importedAs(ref)
	if known := s.refs[ref.key()]; known != nil && *known == *ref {
		return nil
	}
	if err := s.writeRef(ref); err != nil {
		return err
	}
	for key, other := range s.refs { // a name varies with the processor, or it does not
		if other.Name == ref.Name && (other.Variant == "") != (ref.Variant == "") {
			if err := s.forgetName(key); err != nil {
				return err
			}
		}
	}
	return nil
}

// importedAs is the pinned image that a name goes on to stand for when a registry's answer takes its place.
func (s *Store) importedAs(ref *Ref) string {
	if ref.Repo == "" {
		return ""
	}
	for _, known := range s.refs {
		digest := known.Imported
		if known.Repo == "" {
			digest = known.Digest
		}
		if image := s.images[digest]; known.Name == ref.Name && image != nil && image.pinned() && digest != ref.Digest {
			return digest
		}
	}
	return ""
}

func (s *Store) writeRef(ref *Ref) error {
	if _, err := writeRecord(s.refPath(ref.key()), ref); err != nil {
		return err
	}
	s.refs[ref.key()] = ref
	return nil
}

// restore makes the name of a record that is gone lead to what was imported under it, unless it still leads to an image
// for another kind of processor.
func (s *Store) restore(gone *Ref) error {
	for _, ref := range s.refs {
		if ref.Name == gone.Name {
			return nil
		}
	}
	if s.images[gone.Imported] == nil {
		return nil
	}
	return s.writeRef(&Ref{Name: gone.Name, Resolved: gone.Imported, Digest: gone.Imported})
}

func (s *Store) forgetName(key string) error {
	if err := os.Remove(s.refPath(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting a name: %w", err)
	}
	delete(s.refs, key)
	return nil
}
