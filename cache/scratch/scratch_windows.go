package scratch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Scratches are plain directories here: the compute service makes the writable layers in them, which the runtime owns.
type Scratches struct{ opts Options }

// New finds out whether scratches can be made, and returns those that there are.
func New(opts Options) (*Scratches, error) { return &Scratches{opts}, nil }

func (s *Scratches) create(_ context.Context, req Request) (Scratch, error) {
	if req.Disk {
		return Scratch{}, fault.Systemf("scratches on Windows are no disks")
	}
	return Scratch{Dir: s.dir(req.ID)}, nil
}

// destroy refuses a directory that still holds a writable layer: deleting the disk of a running container by hand is
// how hosts are broken.
func (s *Scratches) destroy(_ context.Context, id string) error {
	dir := s.dir(id)
	entries, err := os.ReadDir(dir) // and no pattern, which the directory's own name may look like
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if _, err := os.Lstat(filepath.Join(dir, entry.Name(), "sandbox.vhdx")); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fault.Systemf("it still holds the layer %s, which the sandbox has not let go", entry.Name()), err)
		}
	}
	return os.RemoveAll(dir)
}

func (s *Scratches) usage(id string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(s.dir(id), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fault.Systemf("there is no scratch %s", id)
	}
	return sum, err
}
