package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/cache/layer"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/cache/registry"
	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/singleflight"
	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/cache/trash"
	"github.com/airlock-ci/airlock/internal/identity"
)

// Options say where a Cache lives and what bounds it.
type Options struct {
	// Dir is kept across reboots; RunDir need not be. Both are made when missing. Layers and scratches need
	// a file system below Dir that has xattrs and sparse files (ext4, xfs, btrfs).
	Dir, RunDir string
	// DiskLimit bounds what the images and their disks take, in bytes of allocated blocks, InodeLimit in inodes; 0: no
	// bound. What is in use or pinned stays, so they may be exceeded as long as that is so. See Collect.
	DiskLimit, InodeLimit int64
	// MinFree says what pulls, disks and imports together leave free of the file system of Dir, whoever uses the rest; it
	// is given what that has in all, 0 inodes if it makes them as they are needed. nil: nothing stays free.
	MinFree func(total Use) Use
	// InsecureRegistries are hosts, with port, that may be talked to by plain HTTP. They alone may be on this host.
	InsecureRegistries []string
	// PullTimeout bounds one pull; 0 means 30 min.
	PullTimeout time.Duration
	// StallTimeout is how long a registry may be silent, in the middle of an answer or before it, until the request is
	// made again; 0 means 30 s.
	StallTimeout time.Duration
	// Scratch is the kind of scratches, other than disks for guests; empty means ScratchLoop.
	Scratch ScratchKind
	// ScratchSize is the size, in bytes, of which some scratches are kept ready; 0 keeps none ready until one
	// was asked for.
	ScratchSize int64
	// MaxUnpacked bounds what one image's layers take, in bytes of allocated blocks, MaxEntries its files, directories,
	// links and names; 0 means 64 GiB and 2 million.
	MaxUnpacked, MaxEntries int64
	// Importer is, on Windows, the command that imports a layer in a process of its own, which alone holds the
	// privileges for that: see ImportLayer. The layer's directory and those below it are added as arguments.
	Importer []string
	// Logger receives what an administrator may want to know.
	Logger zerolog.Logger
}

func (o *Options) fillIn() {
	if o.PullTimeout == 0 {
		o.PullTimeout = 30 * time.Minute
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.Scratch == "" {
		o.Scratch = ScratchLoop
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = 64 << 30
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 2_000_000
	}
}

// limit is that of everything together.
func (o *Options) limit() Use {
	if !space.CountsInodes {
		return Use{Bytes: o.DiskLimit}
	}
	return Use{Bytes: o.DiskLimit, Inodes: o.InodeLimit}
}

// Cache is one cache directory in use. Its methods may be called concurrently.
type Cache struct {
	opts      Options
	log       zerolog.Logger
	lock      *identity.Lock
	network   *registry.Network
	trash     *trash.Trash
	layers    *layer.Layers
	store     *records.Store
	room      *space.Room
	counters  space.Counters
	scratches *scratch.Scratches

	pulls     *singleflight.Group[*pull]    // by repository, digest and processor
	transfers *singleflight.Group[struct{}] // of layers, by id
	makings   *singleflight.Group[struct{}] // of disks, by name

	// life ends with Close; work that outlives its caller lives in it and is counted by background.
	life       context.Context
	endOfLife  context.CancelCauseFunc
	background sync.WaitGroup
}

var errClosed = errors.New("the cache was closed")

// New opens a cache directory, alone: it fails, with an administrator's error, while another process has
// it. What dead processes left half-made is removed.
func New(opts Options) (*Cache, error) {
	opts.fillIn()
	if err := prepareDirs(&opts); err != nil {
		return nil, err
	}
	if err := layer.CheckFileSystem(opts.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{opts: opts, log: opts.Logger, lock: lock}
	c.life, c.endOfLife = context.WithCancelCause(context.Background())
	c.pulls = singleflight.NewGroup[*pull](c.life, &c.background)
	c.transfers = singleflight.NewGroup[struct{}](c.life, &c.background)
	c.makings = singleflight.NewGroup[struct{}](c.life, &c.background)
	c.network = registry.NewNetwork(opts.InsecureRegistries, opts.StallTimeout, http.ProxyFromEnvironment)
	c.trash = trash.New(c.path("trash"), layer.Delete, &c.background, c.log)
	c.layers = layer.New(layer.Options{Dir: c.path("layers/sha256"), Ingest: c.path("ingest"), Importer: opts.Importer, Trash: c.trash,
		Background: &c.background, Log: c.log})
	if err := c.open(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// path is that of something in the cache directory.
func (c *Cache) path(name string) string { return filepath.Join(c.opts.Dir, filepath.FromSlash(name)) }

// halfMade are the directories of what is in the making, or ready to be taken.
var halfMade = []string{"ingest", "pool"}

func (c *Cache) open() (err error) {
	for _, name := range halfMade {
		if err := c.trash.DiscardContent(c.path(name)); err != nil {
			return err
		}
	}
	if c.store, err = records.Open(c.opts.Dir, files{c.layers, c}, &c.counters.Evicted, c.log); err != nil {
		return err
	}
	c.store.DropStray(c.layers.All())
	c.room, err = space.NewRoom(space.RoomOptions{Dir: c.opts.Dir, Limit: c.opts.limit(), MinFree: c.opts.MinFree, Images: c.store, Trash: c.trash,
		NoRoom: &c.counters.NoRoom})
	if err != nil {
		return err
	}
	c.scratches, err = scratch.New(scratch.Options{Dir: c.path("scratch"), MountDir: filepath.Join(c.opts.RunDir, "scratch"), Pool: c.path("pool"),
		Kind: c.opts.Scratch, ReadySize: c.opts.ScratchSize, Trash: c.trash, Life: c.life, Background: &c.background, Log: c.log})
	if err != nil {
		return err
	}
	if unmeasured := c.store.Unmeasured(); len(unmeasured) > 0 {
		c.background.Go(func() { c.measureLayers(unmeasured) })
	}
	return c.trash.Empty()
}

// files are what the records stand for.
type files struct {
	*layer.Layers
	cache *Cache
}

// DiscardDisk makes a disk vanish.
func (f files) DiscardDisk(name string) { f.cache.trash.Discard(f.cache.diskPath(name)) }

// Close waits until nothing of the cache runs any more and gives the directory free. Scratches stay mounted
// and bases stay in use as long as their sandboxes do.
func (c *Cache) Close() error {
	c.endOfLife(errClosed)
	c.background.Wait()
	c.network.CloseIdle()
	for _, name := range halfMade {
		if err := os.RemoveAll(c.path(name)); err != nil {
			c.log.Warn().Err(err).Msg("the next start cleans up")
		}
	}
	c.lock.Release()
	return nil
}

// prepareDirs makes the directories and resolves their paths: mounts and loop devices report resolved ones.
func prepareDirs(opts *Options) error {
	for _, dir := range []*string{&opts.Dir, &opts.RunDir} {
		if !filepath.IsAbs(*dir) {
			return fmt.Errorf("cache directory %q is not an absolute path", *dir)
		}
		// Closed to others: layers hold set-user-id programs of strangers.
		if err := os.MkdirAll(*dir, 0o700); err != nil {
			return fmt.Errorf("making the cache directory: %w", err)
		}
		resolved, err := filepath.EvalSymlinks(*dir)
		if err != nil {
			return fmt.Errorf("resolving the cache directory: %w", err)
		}
		*dir = resolved
	}
	if err := os.Chmod(opts.Dir, 0o700); err != nil {
		return fmt.Errorf("closing the cache directory to others: %w", err)
	}
	for _, sub := range []string{"layers/sha256", "disks", "images", "refs", "ingest", "pool", "scratch", "trash", "volumes"} {
		if err := os.MkdirAll(filepath.Join(opts.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("making the cache directory: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(opts.RunDir, "scratch"), 0o700); err != nil {
		return fmt.Errorf("making the scratches' mount directory: %w", err)
	}
	return nil
}
