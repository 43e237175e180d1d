// Package space keeps the cache within its file system: it owns the room that all work under way shares.
//
// A writer asks a Claim first, and for an image's layers its Budget, too. What does not fit an image's limits is its
// author's failure, and what does not fit the file system the system's, after images that may go were evicted. Nothing
// is written below the floor, however many write at a time. It never touches a file: the records evict, and the trash
// deletes. Layers, disks and imports ask; the facade makes the Room.
package space

import "sync/atomic"

// Use is room on a file system.
type Use struct {
	// Bytes are those of allocated blocks, as du counts them.
	Bytes int64
	// Inodes are files, directories and links, each once however many names it has; 0 where a file system has none.
	Inodes int64
}

// Plus returns the sum.
func (u Use) Plus(v Use) Use { return Use{u.Bytes + v.Bytes, u.Inodes + v.Inodes} }

// Minus returns the difference.
func (u Use) Minus(v Use) Use { return Use{u.Bytes - v.Bytes, u.Inodes - v.Inodes} }

// Exceeds reports whether u is beyond a limit in either measure; a limit of 0 is none.
func (u Use) Exceeds(limit Use) bool {
	return limit.Bytes > 0 && u.Bytes > limit.Bytes || limit.Inodes > 0 && u.Inodes > limit.Inodes
}

// Lacks reports whether u has less than demanded in either measure.
func (u Use) Lacks(demanded Use) bool { return u.Bytes < demanded.Bytes || u.Inodes < demanded.Inodes }

// BlockSize is what file systems round sizes up to, in bytes.
const BlockSize = 4096

// Blocks rounds a size up to whole blocks, in bytes.
func Blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize * BlockSize }

// Counts are events of a cache.
type Counts struct {
	// Evicted are images that made room for others.
	Evicted int64
	// TooLarge are pulls refused because their image exceeded the limits of one image, NoRoom those that ended at the
	// floor of the file system.
	TooLarge, NoRoom int64
}

// Counters count what Counts tells.
type Counters struct{ Evicted, TooLarge, NoRoom atomic.Int64 }

// Read returns what was counted.
func (c *Counters) Read() Counts {
	return Counts{Evicted: c.Evicted.Load(), TooLarge: c.TooLarge.Load(), NoRoom: c.NoRoom.Load()}
}
