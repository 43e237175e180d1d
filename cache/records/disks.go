package records

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/space"
)

// openDisks takes over the disks of images that are there.
func (s *Store) openDisks() error {
	needed := s.neededDisks(everyImage)
	return eachFile(filepath.Join(s.dir, "disks"), func(path string, info fs.FileInfo) error {
		if name := filepath.Base(path); needed[name] {
			s.disks[name] = space.Allocated(info)
		}
		return nil
	})
}

// neededDisks are those that some images have or would have. The caller holds the lock or is alone.
func (s *Store) neededDisks(of func(*Image) bool) map[string]bool {
	needed := map[string]bool{}
	for _, image := range s.images {
		if of(image) {
			needed[disk.Name(image.Stack())] = true
		}
	}
	return needed
}

// diskUse is what a disk of so many allocated bytes takes.
func diskUse(size int64) space.Use { return space.Use{Bytes: size, Inodes: 1} }

// Disk returns the size of a disk that is there, and forgets one that another hand removed.
func (s *Store) Disk(name string) (size int64, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, found = s.disks[name]
	if !found {
		return 0, false
	}
	if _, err := os.Lstat(filepath.Join(s.dir, "disks", name)); err != nil {
		delete(s.disks, name)
		return 0, false
	}
	return size, true
}

// AddDisk notes a disk that is complete, and takes so many bytes.
func (s *Store) AddDisk(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[name] = size
}
