package space

import "context"

// Claim is the room that one piece of work has been granted: the unpacking of a layer, the making of a disk. It is
// used by one goroutine.
type Claim struct {
	room    *Room
	granted Use
	taken   Use // of what was granted
	written Use // of what was taken
}

// Claim returns a claim to which nothing is granted yet. The caller must End it.
func (r *Room) Claim() *Claim { return &Claim{room: r} }

// settle says that all that was taken is on the file system now.
func (c *Claim) settle() { c.wrote(c.taken.Minus(c.written)) }

// Take asks for room for what is about to be written. It fails, as the system's, when that would leave less than the
// floor free.
func (c *Claim) Take(ctx context.Context, more Use) error {
	taken := c.taken.Plus(more)
	if c.granted.Lacks(taken) {
		got, err := c.room.grant(ctx, Use{max(0, taken.Bytes-c.granted.Bytes), max(0, taken.Inodes-c.granted.Inodes)})
		if err != nil {
			return err
		}
		c.granted = c.granted.Plus(got)
	}
	c.taken = taken
	return nil
}

// wrote says that a part of what was taken is on the file system now.
func (c *Claim) wrote(part Use) {
	part = Use{min(part.Bytes, c.taken.Bytes-c.written.Bytes), min(part.Inodes, c.taken.Inodes-c.written.Inodes)}
	if part == (Use{}) {
		return
	}
	c.written = c.written.Plus(part)
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	c.room.unwritten = c.room.unwritten.Minus(part)
}

// End gives everything back. The store counts what stays, and the file system what does not as soon as it is deleted.
func (c *Claim) End() {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	c.room.granted = c.room.granted.Minus(c.granted)
	c.room.unwritten = c.room.unwritten.Minus(c.granted.Minus(c.written))
	c.granted, c.taken, c.written = Use{}, Use{}, Use{}
}

// Writing returns a function that takes room for what is about to be written, each time all of what was before it is.
func (c *Claim) Writing(ctx context.Context) func(more Use) error {
	return func(more Use) error {
		c.settle()
		return c.Take(ctx, more)
	}
}
