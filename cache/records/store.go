// Package records owns what the cache knows of its images: one record for each image and each name, in memory and on
// disk, with who uses them.
//
// It counts what they take, says which layers and disks are needed, and evicts. A record is written whole or not at all,
// and only when its layers are complete. What is leased, pinned or being pulled is never evicted, and a layer that only a
// private image brought is never given to another repository. It deletes no file of a layer: it tells its Contents what
// nobody needs. The facade calls it. Records of every version before are read for ever.
package records

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache/layer"
)

// Store is the records, in memory and on disk, with who uses them. One lock guards everything: nothing under
// it waits for a network or walks a tree.
type Store struct {
	dir      string
	contents Contents
	evicted  *atomic.Int64 // counts images
	log      zerolog.Logger

	mu     sync.Mutex
	images map[string]*Image         // by digest
	refs   map[string]*Ref           // by key
	layers map[string]*sharedLayer   // by id; complete ones only
	disks  map[string]int64          // name -> bytes it takes; complete ones only
	leases map[string]map[string]int // digest -> holder -> count; may precede the image
	held   map[string]int            // layer id -> pulls that rely on it; may precede the layer
}

// Contents are what records stand for. They are called under the store's lock, and must not wait.
type Contents interface {
	// Complete reports whether all of a layer is there.
	Complete(layer string) bool
	// Discard makes a layer vanish.
	Discard(layer string)
	// DiscardDisk makes a disk vanish.
	DiscardDisk(name string)
}

// sharedLayer is one complete unpacked layer.
type sharedLayer struct {
	layer.Stored
	repos map[string]bool // as Image.Repos: which delivered it, and whether privately
}

// grants reports whether an image of repo may use the layer without delivering it.
func (l *sharedLayer) grants(repo string) bool {
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

func (s *Store) imagePath(digest string) string {
	return filepath.Join(s.dir, "images", strings.Replace(digest, ":", "-", 1)+".json")
}

// Open reads the records. One that is unreadable or whose layers are missing is dropped: the image will
// be pulled again.
func Open(dir string, contents Contents, evicted *atomic.Int64, log zerolog.Logger) (*Store, error) {
	s := &Store{dir: dir, contents: contents, evicted: evicted, log: log, images: map[string]*Image{}, refs: map[string]*Ref{},
		layers: map[string]*sharedLayer{}, disks: map[string]int64{}, leases: map[string]map[string]int{}, held: map[string]int{}}
	if err := s.openImages(); err != nil {
		return nil, err
	}
	if err := s.openRefs(); err != nil {
		return nil, err
	}
	if err := s.openDisks(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) openImages() error {
	return eachFile(filepath.Join(s.dir, "images"), func(path string, info fs.FileInfo) error {
		image := &Image{}
		if err := readRecord(path, image); err != nil || !image.valid() || s.imagePath(image.Digest) != path || !s.complete(image) {
			s.log.Warn().Err(err).Str("path", path).Msg("dropping a broken image record")
			return os.Remove(path)
		}
		if image.outdated() {
			s.log.Info().Str("digest", image.Digest).Msg("an earlier version unpacked this image otherwise; it is pulled again when it is used")
			return os.Remove(path)
		}
		image.lastUsed, image.size = info.ModTime(), info.Size()
		s.remember(image)
		return nil
	})
}

func (s *Store) openRefs() error {
	return eachFile(filepath.Join(s.dir, "refs"), func(path string, _ fs.FileInfo) error {
		ref := &Ref{}
		if err := readRecord(path, ref); err != nil || s.refPath(ref.key()) != path || s.images[ref.Digest] == nil {
			return os.Remove(path)
		}
		s.refs[ref.key()] = ref
		return nil
	})
}

// complete reports whether all of an image's layers are there.
func (s *Store) complete(image *Image) bool {
	for _, l := range image.Layers {
		if !s.contents.Complete(l.DiffID) {
			return false
		}
	}
	return true
}

// remember puts an image and its layers into memory. The caller holds the lock or is alone.
func (s *Store) remember(image *Image) {
	s.images[image.Digest] = image
	for _, l := range image.Layers {
		s.addLayer(l.DiffID, layer.Stored{Use: l.use(), Omitted: l.Omitted}, image.Repos)
	}
}

func (s *Store) addLayer(id string, stored layer.Stored, repos map[string]bool) {
	known := s.layers[id]
	if known == nil {
		known = &sharedLayer{Stored: stored, repos: map[string]bool{}}
		s.layers[id] = known
	}
	for repo, private := range repos {
		known.repos[repo] = private
	}
}

// Commit makes an image and what its name leads to visible and lasting.
func (s *Store) Commit(image *Image) error {
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

// touch marks an image as just used.
func (s *Store) touch(image *Image) {
	now := time.Now()
	image.lastUsed = now
	// Only the order of collection hangs on it.
	_ = os.Chtimes(s.imagePath(image.Digest), now, now)
}

// forget removes an image's record and names; a name under which another was imported leads to that one again. The
// caller holds the lock.
func (s *Store) forget(image *Image) error {
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

// Image returns the record of an image that the caller has leased, or nil.
func (s *Store) Image(digest string) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[digest]
}
