package executor

import "sync"

// What the callers of one user may take of the executor at once. A runner's user drives hundreds of jobs, a call each.
const (
	maxConnections = 1024
	maxInput       = 512 << 20 // bytes of scripts and job responses
)

// users counts what the callers of each user take, so that no member of the group can fill the executor.
type users struct {
	mu  sync.Mutex
	use map[string]*use // by the name of the peer
}

type use struct{ connections, input int }

func newUsers() *users { return &users{use: map[string]*use{}} }

// enter counts a connection; false when the user has too many.
func (u *users) enter(name string) bool {
	return u.change(name, func(c *use) bool {
		if c.connections >= maxConnections {
			return false
		}
		c.connections++
		return true
	})
}

func (u *users) leave(name string) {
	u.change(name, func(c *use) bool { c.connections--; return true })
}

// take counts bytes of input, negative ones as given back; false when the user has too many.
func (u *users) take(name string, bytes int) bool {
	return u.change(name, func(c *use) bool {
		if bytes > 0 && c.input+bytes > maxInput {
			return false
		}
		c.input += bytes
		return true
	})
}

func (u *users) change(name string, change func(*use) bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.use[name]
	if c == nil {
		c = &use{}
		u.use[name] = c
	}
	ok := change(c)
	if *c == (use{}) {
		delete(u.use, name)
	}
	return ok
}
