package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// diskFormat is raised whenever the same layers would become another disk. Disks of other formats are removed
// at the start.
const diskFormat = "1"

// diskName names the disk of layers by their ids, upper-most first.
func diskName(stack []string) string {
	hash := sha256.Sum256([]byte("ext4 " + diskFormat + "\n" + strings.Join(stack, "\n")))
	return "sha256-" + hex.EncodeToString(hash[:]) + ".ext4"
}

func diskPath(dir, name string) string { return filepath.Join(dir, "disks", name) }

// disk returns the disk of a leased image, made when missing. Requests that need the same one at the same time
// make it once. It tells the job log when that takes a while.
func (c *Cache) disk(ctx context.Context, asked string, image *imageRecord, log *joblog.Log) (string, error) {
	stack := image.stack()
	name := diskName(stack)
	path := diskPath(c.opts.Dir, name)
	started := time.Now()
	for made := false; ; made = true {
		if size, found := c.store.disk(name); found {
			if made {
				log.Progress("Made a disk of image %s in %.1f s, %s", asked, time.Since(started).Seconds(), bytesize.Format(size))
			}
			return path, nil
		}
		flight, led := c.disks.join(name, func() struct{} { return struct{}{} },
			func(ctx context.Context, _ struct{}) error { return c.makeDisk(ctx, name, stack) })
		err := c.disks.wait(ctx, name, flight, joblog.FirstPause, func() time.Duration {
			log.Progress("Making a disk of image %s", asked)
			return joblog.MaxPause
		})
		if err != nil && (led || ctx.Err() != nil) {
			return "", fmt.Errorf("making a disk of image %s: %w", asked, err)
		}
	}
}

// makeDisk makes a disk aside and gives it its name when it is whole. Its layers stay while it is made: whoever
// waits for it has leased an image with them, and its context ends before the last of those leases does.
func (c *Cache) makeDisk(ctx context.Context, name string, stack []string) error {
	layers := make([]string, len(stack))
	for i, id := range stack {
		layers[i] = filepath.Join(layerDir(c.opts.Dir, id), "fs")
	}
	file, err := os.CreateTemp(filepath.Join(c.opts.Dir, "ingest"), "disk-")
	if err != nil {
		return fault.Systemf("%w", err)
	}
	defer c.discard(file.Name())
	defer file.Close()
	claim := c.room.claim()
	defer claim.end()
	started := time.Now()
	room := func(more Use) error {
		claim.settle()
		return claim.take(ctx, more)
	}
	if err := writeDisk(ctx, file, layers, room); err != nil {
		return err
	}
	size, err := finishDisk(file)
	if err != nil {
		return fault.Systemf("%w", err)
	}
	if err := failpoint.Hit("cache-disk"); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fault.Systemf("interrupted: %w", context.Cause(ctx))
	}
	if err := os.Rename(file.Name(), diskPath(c.opts.Dir, name)); err != nil {
		return fault.Systemf("%w", err)
	}
	claim.end()
	c.store.addDisk(name, size)
	c.log.Info().Str("disk", name).Int64("bytes", size).Dur("took", time.Since(started)).Msg("disk is in the cache")
	if _, err := c.Collect(ctx); err != nil {
		c.log.Error().Err(err).Msg("collecting images")
	}
	return failpoint.Hit("cache-disk-named")
}

// finishDisk gives a disk its full size, makes it lasting and read-only, and returns what it takes on the host.
func finishDisk(file *os.File) (int64, error) {
	if err := file.Truncate(DiskSize); err != nil {
		return 0, err
	}
	if err := file.Chmod(0o444); err != nil {
		return 0, err
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return allocated(info), nil
}

// stack returns an image's layers by their ids, upper-most first. Images that an earlier version imported may have equal
// ones: the upper one hides the lower one entirely, and overlayfs refuses to stack both.
func (i *imageRecord) stack() []string {
	seen := map[string]bool{}
	stack := make([]string, 0, len(i.Layers))
	for n := len(i.Layers) - 1; n >= 0; n-- {
		if id := i.Layers[n].DiffID; !seen[id] {
			seen[id] = true
			stack = append(stack, id)
		}
	}
	return stack
}

// openDisks takes over the disks of images that are there.
func (s *store) openDisks() error {
	needed := s.neededDisks(everyImage)
	return eachFile(filepath.Join(s.dir, "disks"), func(path string, info fs.FileInfo) error {
		if name := filepath.Base(path); needed[name] {
			s.disks[name] = allocated(info)
		}
		return nil
	})
}

// strayDisks are the disks on disk that no image needs.
func (s *store) strayDisks() []string {
	var stray []string
	entries, _ := os.ReadDir(filepath.Join(s.dir, "disks"))
	for _, e := range entries {
		if _, known := s.disks[e.Name()]; !known {
			stray = append(stray, e.Name())
		}
	}
	return stray
}

// neededDisks are those that some images have or would have. The caller holds the lock or is alone.
func (s *store) neededDisks(of func(*imageRecord) bool) map[string]bool {
	needed := map[string]bool{}
	for _, image := range s.images {
		if of(image) {
			needed[diskName(image.stack())] = true
		}
	}
	return needed
}

// diskUse is what a disk of so many allocated bytes takes.
func diskUse(size int64) Use { return Use{Bytes: size, Inodes: 1} }

// disk returns the size of a disk that is there, and forgets one that another hand removed.
func (s *store) disk(name string) (size int64, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, found = s.disks[name]
	if !found {
		return 0, false
	}
	if _, err := os.Lstat(diskPath(s.dir, name)); err != nil {
		delete(s.disks, name)
		return 0, false
	}
	return size, true
}

func (s *store) addDisk(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[name] = size
}

// image returns the record of an image that the caller has leased, or nil.
func (s *store) image(digest string) *imageRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[digest]
}
