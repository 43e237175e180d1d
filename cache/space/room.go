package space

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/airlock-ci/airlock/internal/bytesize"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Room is what the cache may still take of its file system. All that pulls, disks and imports write is asked for
// here first, so that together they stop at the floor, and so that room is made before it is needed.
//
// The floor is hard: nothing is written below it. The limit is not: images that are in use or pinned stay, and so the
// sum may exceed it while they do.
type Room struct {
	dir    string
	limit  Use // of all that the images take; 0: none
	floor  Use // what stays free on the file system
	images Images
	trash  Waiter
	noRoom *atomic.Int64 // counts who was refused

	asking chan struct{} // holds one value while somebody asks for more

	mu        sync.Mutex
	granted   Use // to claims, and not counted by the images yet
	unwritten Use // the part of it that the file system does not count yet
}

// Images take the room, and make some.
type Images interface {
	// TotalUse is what all of them take.
	TotalUse() Use
	// Evictable is what would be freed if every one went that may.
	Evictable() Use
	// DropUnnamed removes those that nobody can ask for and nobody uses.
	DropUnnamed()
	// Evict removes the least recently used of those that may go, and reports whether there was one.
	Evict() bool
}

// Waiter knows of files that are being deleted.
type Waiter interface {
	// Wait waits until none is, and reports whether there was any to wait for.
	Wait(ctx context.Context) (waited bool, err error)
}

// RoomOptions say what bounds the room.
type RoomOptions struct {
	// Dir is a directory of the file system.
	Dir string
	// Limit bounds what the images take; 0 is no bound.
	Limit Use
	// MinFree says what stays free of the file system, given what it has in all; nil: nothing.
	MinFree func(total Use) Use
	Images  Images
	Trash   Waiter
	// NoRoom counts who was refused.
	NoRoom *atomic.Int64
}

// ahead is how much more than it needs a claim gets where there is plenty: asking costs a look at the file system.
var ahead = Use{Bytes: 8 << 20, Inodes: 1024}

// NewRoom looks how large the file system is.
func NewRoom(opts RoomOptions) (*Room, error) {
	_, total, err := freeOf(opts.Dir)
	if err != nil {
		return nil, lookingFault(opts.Dir, err)
	}
	r := &Room{dir: opts.Dir, limit: opts.Limit, images: opts.Images, trash: opts.Trash, noRoom: opts.NoRoom, asking: make(chan struct{}, 1)}
	if opts.MinFree != nil {
		r.floor = opts.MinFree(total)
	}
	return r, nil
}

func lookingFault(dir string, err error) error {
	return fault.Systemf("looking at the file system of %s: %w", dir, err)
}

// Floor is what stays free of the file system.
func (r *Room) Floor() Use { return r.floor }

// Free is what the file system has left.
func (r *Room) Free() (Use, error) {
	free, _, err := freeOf(r.dir)
	if err != nil {
		return Use{}, lookingFault(r.dir, err)
	}
	return free, nil
}

// grant gives a claim what it needs or somewhat more.
func (r *Room) grant(ctx context.Context, need Use) (Use, error) {
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return Use{}, fault.Systemf("interrupted: %w", context.Cause(ctx))
	}
	plenty := need.Plus(ahead)
	if free, err := r.missing(plenty); err == nil && free == (Use{}) && !r.exceeded(plenty) {
		return r.give(plenty), nil
	}
	if err := r.make(ctx, need); err != nil {
		return Use{}, err
	}
	return r.give(need), nil
}

func (r *Room) give(granted Use) Use {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.granted, r.unwritten = r.granted.Plus(granted), r.unwritten.Plus(granted)
	return granted
}

// make evicts images until what is needed fits: for the limit as many as there are, for the floor only if that can be
// enough.
func (r *Room) make(ctx context.Context, need Use) error {
	r.images.DropUnnamed()
	for r.exceeded(need) && r.images.Evict() {
	}
	for {
		missing, err := r.missing(need)
		if err != nil {
			return lookingFault(r.dir, err)
		}
		if missing == (Use{}) {
			return nil
		}
		if waited, err := r.trash.Wait(ctx); err != nil {
			return fault.Systemf("interrupted: %w", err)
		} else if waited {
			continue
		}
		if r.images.Evictable().Lacks(missing) || !r.images.Evict() {
			r.noRoom.Add(1)
			return r.full(missing)
		}
	}
}

// exceeded reports whether the cache would take more than its limit.
func (r *Room) exceeded(need Use) bool {
	r.mu.Lock()
	granted := r.granted
	r.mu.Unlock()
	return r.images.TotalUse().Plus(granted).Plus(need).Exceeds(r.limit)
}

// missing is how much less than the floor would be free if all claims and need were written.
func (r *Room) missing(need Use) (Use, error) {
	// Claims before the file system: what is written in between then counts twice, not never.
	r.mu.Lock()
	demanded := r.unwritten.Plus(need).Plus(r.floor)
	r.mu.Unlock()
	free, total, err := freeOf(r.dir)
	missing := Use{max(0, demanded.Bytes-free.Bytes), max(0, demanded.Inodes-free.Inodes)}
	if total.Inodes == 0 {
		missing.Inodes = 0
	}
	return missing, err
}

func (r *Room) full(missing Use) error {
	if missing.Bytes > 0 {
		return fault.WithRemedy(fault.Systemf("the disk of %s has no room: %s of it stay free (min_free_space)", r.dir, bytesize.Format(r.floor.Bytes)),
			fmt.Sprintf("try again when other jobs have ended; the administrator can free %s, or lower min_free_space in [cache]",
				bytesize.Format(missing.Bytes)))
	}
	return fault.WithRemedy(fault.Systemf("the disk of %s has no inodes left: %d of them stay free (min_free_inodes)", r.dir, r.floor.Inodes),
		fmt.Sprintf("try again when other jobs have ended; the administrator can remove %d files, or lower min_free_inodes in [cache]",
			missing.Inodes))
}
