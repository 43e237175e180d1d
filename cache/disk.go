package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
)

// diskPath is where a disk is that has its name.
func (c *Cache) diskPath(name string) string { return filepath.Join(c.path("disks"), name) }

// disk returns the disk of a leased image, made when missing. Requests that need the same one at the same time
// make it once. It tells the job log when that takes a while.
func (c *Cache) disk(ctx context.Context, asked string, image *records.Image, log *joblog.Log) (string, error) {
	stack := image.Stack()
	name := disk.Name(stack)
	path := c.diskPath(name)
	started := time.Now()
	for made := false; ; made = true {
		if size, found := c.store.Disk(name); found {
			if made {
				log.Progress("Made a disk of image %s in %.1f s, %s", asked, time.Since(started).Seconds(), bytesize.Format(size))
			}
			return path, nil
		}
		flight, led := c.makings.Join(name, struct{}{},
			func(ctx context.Context, _ struct{}) error { return c.makeDisk(ctx, name, stack) })
		err := flight.Watch(ctx, joblog.FirstPause, func() time.Duration {
			log.Progress("Making a disk of image %s", asked)
			return joblog.MaxPause
		})
		if err != nil && (led || ctx.Err() != nil) {
			return "", fmt.Errorf("making a disk of image %s: %w", asked, err)
		}
	}
}

// makeDisk makes a disk aside and gives it its name when it is whole. Its layers stay while it is made: each
// caller that waits for it has leased an image with them, and its context ends before the last of those leases does.
func (c *Cache) makeDisk(ctx context.Context, name string, stack []string) error {
	layers := make([]string, len(stack))
	for i, id := range stack {
		layers[i] = c.layers.Root(id)
	}
	file, err := os.CreateTemp(c.path("ingest"), "disk-")
	if err != nil {
		return fault.Systemf("%w", err)
	}
	defer c.trash.Discard(file.Name())
	defer file.Close()
	claim := c.room.Claim()
	defer claim.End()
	started := time.Now()
	if err := disk.Write(ctx, file, layers, claim.Writing(ctx)); err != nil {
		return err
	}
	size, err := disk.Finish(file)
	if err != nil {
		return fault.Systemf("%w", err)
	}
	if err := failpoint.Hit("cache-disk"); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fault.Systemf("interrupted: %w", context.Cause(ctx))
	}
	if err := os.Rename(file.Name(), c.diskPath(name)); err != nil {
		return fault.Systemf("%w", err)
	}
	claim.End()
	c.store.AddDisk(name, size)
	c.log.Info().Str("disk", name).Int64("bytes", size).Dur("took", time.Since(started)).Msg("disk is in the cache")
	c.collect(ctx)
	return failpoint.Hit("cache-disk-named")
}
