package cache

import (
	"context"
	"fmt"
	"sync"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// room is what the cache may still take of its file system. All that pulls, disks and imports write is asked for
// here first, so that together they stop at the floor, and so that room is made before it is needed.
//
// The floor is hard: nothing is written below it. The limit is not: images that are in use or pinned stay, and so the
// sum may exceed it while they do.
type room struct {
	cache *Cache
	floor Use // what stays free on the file system

	asking chan struct{} // holds one value while somebody asks for more

	mu        sync.Mutex
	granted   Use // to claims, and not counted by the store yet
	unwritten Use // the part of it that the file system does not count yet
}

// ahead is how much more than it needs a claim gets where there is plenty: asking costs a look at the file system.
var ahead = Use{Bytes: 8 << 20, Inodes: 1024}

// newRoom looks how large the file system is.
func newRoom(c *Cache) (*room, error) {
	_, total, err := freeOf(c.opts.Dir)
	if err != nil {
		return nil, fault.Systemf("looking at the file system of %s: %w", c.opts.Dir, err)
	}
	r := &room{cache: c, asking: make(chan struct{}, 1)}
	if c.opts.MinFree != nil {
		r.floor = c.opts.MinFree(total)
	}
	return r, nil
}

// claim is the room that one piece of work has been granted: the unpacking of a layer, the making of a disk. It is
// used by one goroutine.
type claim struct {
	room    *room
	granted Use
	taken   Use // of what was granted
	written Use // of what was taken
}

func (r *room) claim() *claim { return &claim{room: r} }

// settle says that all that was taken is on the file system now.
func (c *claim) settle() { c.wrote(c.taken.minus(c.written)) }

// take asks for room for what is about to be written. It fails, as the system's, when that would leave less than the
// floor free.
func (c *claim) take(ctx context.Context, more Use) error {
	taken := c.taken.plus(more)
	if c.granted.lacks(taken) {
		got, err := c.room.grant(ctx, Use{max(0, taken.Bytes-c.granted.Bytes), max(0, taken.Inodes-c.granted.Inodes)})
		if err != nil {
			return err
		}
		c.granted = c.granted.plus(got)
	}
	c.taken = taken
	return nil
}

// wrote says that a part of what was taken is on the file system now.
func (c *claim) wrote(part Use) {
	part = Use{min(part.Bytes, c.taken.Bytes-c.written.Bytes), min(part.Inodes, c.taken.Inodes-c.written.Inodes)}
	if part == (Use{}) {
		return
	}
	c.written = c.written.plus(part)
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	c.room.unwritten = c.room.unwritten.minus(part)
}

// end gives everything back. The store counts what stays, and the file system what does not as soon as it is deleted.
func (c *claim) end() {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	c.room.granted = c.room.granted.minus(c.granted)
	c.room.unwritten = c.room.unwritten.minus(c.granted.minus(c.written))
	c.granted, c.taken, c.written = Use{}, Use{}, Use{}
}

// grant gives a claim what it needs or somewhat more.
func (r *room) grant(ctx context.Context, need Use) (Use, error) {
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return Use{}, fault.Systemf("interrupted: %w", context.Cause(ctx))
	}
	plenty := need.plus(ahead)
	if free, err := r.missing(plenty); err == nil && free == (Use{}) && !r.exceeded(plenty) {
		return r.give(plenty), nil
	}
	if err := r.make(ctx, need); err != nil {
		return Use{}, err
	}
	return r.give(need), nil
}

func (r *room) give(granted Use) Use {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.granted, r.unwritten = r.granted.plus(granted), r.unwritten.plus(granted)
	return granted
}

// make evicts images until what is needed fits: for the limit as many as there are, for the floor only if that can be
// enough.
func (r *room) make(ctx context.Context, need Use) error {
	r.cache.dropUnnamed()
	for r.exceeded(need) && r.cache.evict() {
	}
	for {
		missing, err := r.missing(need)
		if err != nil {
			return fault.Systemf("looking at the file system of %s: %w", r.cache.opts.Dir, err)
		}
		if missing == (Use{}) {
			return nil
		}
		if waited, err := r.cache.trash.wait(ctx); err != nil {
			return fault.Systemf("interrupted: %w", err)
		} else if waited {
			continue
		}
		if r.cache.store.evictable().lacks(missing) || !r.cache.evict() {
			r.cache.counters.noRoom.Add(1)
			return r.full(missing)
		}
	}
}

// exceeded reports whether the cache would take more than its limit.
func (r *room) exceeded(need Use) bool {
	r.mu.Lock()
	granted := r.granted
	r.mu.Unlock()
	return r.cache.store.totalUse().plus(granted).plus(need).exceeds(r.cache.opts.limit())
}

// missing is how much less than the floor would be free if all claims and need were written.
func (r *room) missing(need Use) (Use, error) {
	// Claims before the file system: what is written in between then counts twice, not never.
	r.mu.Lock()
	demanded := r.unwritten.plus(need).plus(r.floor)
	r.mu.Unlock()
	free, total, err := freeOf(r.cache.opts.Dir)
	missing := Use{max(0, demanded.Bytes-free.Bytes), max(0, demanded.Inodes-free.Inodes)}
	if total.Inodes == 0 {
		missing.Inodes = 0
	}
	return missing, err
}

func (r *room) full(missing Use) error {
	dir := r.cache.opts.Dir
	if missing.Bytes > 0 {
		return fault.WithRemedy(fault.Systemf("the disk of %s has no room: %s of it stay free (min_free_space)", dir, bytesize.Format(r.floor.Bytes)),
			fmt.Sprintf("try again when other jobs have ended; the administrator can free %s, or lower min_free_space in [cache]",
				bytesize.Format(missing.Bytes)))
	}
	return fault.WithRemedy(fault.Systemf("the disk of %s has no inodes left: %d of them stay free (min_free_inodes)", dir, r.floor.Inodes),
		fmt.Sprintf("try again when other jobs have ended; the administrator can remove %d files, or lower min_free_inodes in [cache]",
			missing.Inodes))
}
