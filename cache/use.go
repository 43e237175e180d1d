package cache

import "sync/atomic"

// Use is room on a file system.
type Use struct {
	// Bytes are those of allocated blocks, as du counts them.
	Bytes int64
	// Inodes are files, directories and links, each once however many names it has; 0 where a file system has none.
	Inodes int64
}

func (u Use) plus(v Use) Use  { return Use{u.Bytes + v.Bytes, u.Inodes + v.Inodes} }
func (u Use) minus(v Use) Use { return Use{u.Bytes - v.Bytes, u.Inodes - v.Inodes} }

// exceeds reports whether u is beyond a limit in either measure; a limit of 0 is none.
func (u Use) exceeds(limit Use) bool {
	return limit.Bytes > 0 && u.Bytes > limit.Bytes || limit.Inodes > 0 && u.Inodes > limit.Inodes
}

// lacks reports whether u has less than demanded in either measure.
func (u Use) lacks(demanded Use) bool { return u.Bytes < demanded.Bytes || u.Inodes < demanded.Inodes }

// blockSize is what file systems round sizes up to, in bytes.
const blockSize = 4096

// blocks rounds a size up to whole blocks, in bytes.
func blocks(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// Usage is what a cache takes, may take, and has done about it.
type Usage struct {
	// Used is what images, their disks and their records take; Limit bounds it, 0: no bound.
	Used, Limit Use
	// Pinned is the part of Used that images have which no pull evicts.
	Pinned Use
	// Free is what the file system of the cache has left, and Floor what no pull may take of it.
	Free, Floor Use
	// Counts are since the cache was opened.
	Counts Counts
}

// Counts are events of a cache.
type Counts struct {
	// Evicted are images that made room for others.
	Evicted int64
	// TooLarge are pulls refused because their image exceeded the limits of one image, NoRoom those that ended at the
	// floor of the file system.
	TooLarge, NoRoom int64
}

// counters count what Counts tells.
type counters struct{ evicted, tooLarge, noRoom atomic.Int64 }

func (c *counters) read() Counts {
	return Counts{Evicted: c.evicted.Load(), TooLarge: c.tooLarge.Load(), NoRoom: c.noRoom.Load()}
}
