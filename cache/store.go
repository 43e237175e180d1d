package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// store is the records, in memory and on disk, with who uses them. One lock guards everything: nothing under
// it waits for a network or walks a tree.
type store struct {
	dir string

	mu     sync.Mutex
	images map[string]*imageRecord   // by digest
	refs   map[string]*refRecord     // by key
	layers map[string]*layer         // by id, see layerIDs; complete ones only
	disks  map[string]int64          // name -> bytes it takes; complete ones only
	leases map[string]map[string]int // digest -> holder -> count; may precede the image
	held   map[string]int            // layer id -> pulls that rely on it; may precede the layer
}

// layer is one complete unpacked layer.
type layer struct {
	storedLayer
	repos map[string]bool // as imageRecord.Repos: who delivered it, and whether privately
}

// grants reports whether an image of repo may use the layer without delivering it.
func (l *layer) grants(repo string) bool {
	if _, delivered := l.repos[repo]; delivered {
		return true
	}
	for _, private := range l.repos {
		if !private {
			return true
		}
	}
	return false
}

func layerDir(dir, id string) string {
	return filepath.Join(dir, "layers", "sha256", strings.TrimPrefix(id, "sha256:"))
}

func (s *store) imagePath(digest string) string {
	return filepath.Join(s.dir, "images", strings.Replace(digest, ":", "-", 1)+".json")
}

func (s *store) refPath(key string) string {
	hash := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, "refs", hex.EncodeToString(hash[:])+".json")
}

// openStore reads the records. One that is unreadable or whose layers are missing is dropped: the image will
// be pulled again.
func openStore(dir string, log zerolog.Logger) (*store, error) {
	s := &store{dir: dir, images: map[string]*imageRecord{}, refs: map[string]*refRecord{},
		layers: map[string]*layer{}, disks: map[string]int64{}, leases: map[string]map[string]int{}, held: map[string]int{}}
	err := eachFile(filepath.Join(dir, "images"), func(path string, info fs.FileInfo) error {
		image := &imageRecord{}
		if err := readRecord(path, image); err != nil || !image.valid() || s.imagePath(image.Digest) != path || !s.complete(image) {
			log.Warn().Err(err).Str("path", path).Msg("dropping a broken image record")
			return os.Remove(path)
		}
		if image.outdated() {
			log.Info().Str("digest", image.Digest).Msg("an earlier version unpacked this image otherwise; it is pulled again when it is used")
			return os.Remove(path)
		}
		image.lastUsed, image.size = info.ModTime(), info.Size()
		s.remember(image)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = eachFile(filepath.Join(dir, "refs"), func(path string, _ fs.FileInfo) error {
		ref := &refRecord{}
		if err := readRecord(path, ref); err != nil || s.refPath(ref.key()) != path || s.images[ref.Digest] == nil {
			return os.Remove(path)
		}
		s.refs[ref.key()] = ref
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = s.openDisks()
	return s, err
}

func eachFile(dir string, visit func(path string, info fs.FileInfo) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the cache: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil {
			err = visit(filepath.Join(dir, e.Name()), info)
		}
		if err != nil {
			return fmt.Errorf("reading the cache: %w", err)
		}
	}
	return nil
}

// complete reports whether all of an image's layers are there.
func (s *store) complete(image *imageRecord) bool {
	for _, l := range image.Layers {
		if _, err := os.Lstat(completeMark(s.dir, l.DiffID)); err != nil {
			return false
		}
	}
	return true
}

// remember puts an image and its layers into memory. The caller holds the lock or is alone.
func (s *store) remember(image *imageRecord) {
	s.images[image.Digest] = image
	for _, l := range image.Layers {
		s.addLayer(l.DiffID, storedLayer{use: l.use(), omitted: l.Omitted}, image.Repos)
	}
}

func (s *store) addLayer(id string, stored storedLayer, repos map[string]bool) {
	known := s.layers[id]
	if known == nil {
		known = &layer{storedLayer: stored, repos: map[string]bool{}}
		s.layers[id] = known
	}
	for repo, private := range repos {
		known.repos[repo] = private
	}
}

// strayLayers are the layers on disk that no image's record names.
func (s *store) strayLayers() []string {
	var stray []string
	entries, _ := os.ReadDir(filepath.Join(s.dir, "layers", "sha256"))
	for _, e := range entries {
		if id := "sha256:" + e.Name(); s.layers[id] == nil {
			stray = append(stray, id)
		}
	}
	return stray
}

// commit makes an image and what its name leads to visible and lasting.
func (s *store) commit(image *imageRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.images[image.Digest]; known != nil {
		for repo, private := range known.Repos {
			if _, newer := image.Repos[repo]; !newer {
				image.Repos[repo] = private
			}
		}
		image.Created, image.Pinned = known.Created, known.Pinned
	}
	var err error
	if image.size, err = writeRecord(s.imagePath(image.Digest), image); err != nil {
		return err
	}
	image.lastUsed = time.Now()
	s.remember(image)
	return nil
}

// point makes a name lead to an image.
func (s *store) point(ref *refRecord) error {
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
func (s *store) importedAs(ref *refRecord) string {
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

func (s *store) writeRef(ref *refRecord) error {
	if _, err := writeRecord(s.refPath(ref.key()), ref); err != nil {
		return err
	}
	s.refs[ref.key()] = ref
	return nil
}

// touch marks an image as just used.
func (s *store) touch(image *imageRecord) {
	now := time.Now()
	image.lastUsed = now
	// Only the order of collection hangs on it.
	_ = os.Chtimes(s.imagePath(image.Digest), now, now)
}

// forget removes an image's record and names; a name under which another was imported leads to that one again. The
// caller holds the lock.
func (s *store) forget(image *imageRecord) error {
	for key, ref := range s.refs {
		switch {
		case ref.Imported == image.Digest:
			changed := *ref
			changed.Imported = ""
			if err := s.writeRef(&changed); err != nil {
				return err
			}
		case ref.Digest == image.Digest:
			if err := s.forgetName(key); err != nil {
				return err
			}
			if err := s.restore(ref); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(s.imagePath(image.Digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting an image: %w", err)
	}
	delete(s.images, image.Digest)
	return nil
}

// restore makes the name of a record that is gone lead to what was imported under it, unless it still leads to an image
// for another kind of processor.
func (s *store) restore(gone *refRecord) error {
	for _, ref := range s.refs {
		if ref.Name == gone.Name {
			return nil
		}
	}
	if s.images[gone.Imported] == nil {
		return nil
	}
	return s.writeRef(&refRecord{Name: gone.Name, Resolved: gone.Imported, Digest: gone.Imported})
}

func (s *store) forgetName(key string) error {
	if err := os.Remove(s.refPath(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting a name: %w", err)
	}
	delete(s.refs, key)
	return nil
}
