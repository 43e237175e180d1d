package supervisor

import (
	"net"
	"slices"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// entrance is one of the sockets by which callers come.
type entrance struct {
	net.Listener
	path, group string
	class       string // that of all who come here; empty: they may say, see classes
}

// openEntrances listens on the service's own socket and on those of runner classes: on all, or on none.
func openEntrances(main string, opts Options) (entrances []*entrance, err error) {
	defer func() {
		if err != nil {
			closeEntrances(entrances)
			entrances = nil
		}
	}()
	listener, err := listen(main, opts.RunDir, opts.Group)
	if err != nil {
		return nil, fault.Adminf("listening on %s: %w", main, err)
	}
	entrances = []*entrance{{Listener: listener, path: main, group: opts.Group}}
	for _, s := range opts.Sockets {
		listener, err := listenForClass(s.Path, s.Group)
		if err != nil {
			return entrances, fault.Adminf("listening on %s, the socket of runner class %q: %w", s.Path, s.RunnerClass, err)
		}
		entrances = append(entrances, &entrance{Listener: listener, path: s.Path, group: s.Group, class: s.RunnerClass})
	}
	return entrances, nil
}

func closeEntrances(entrances []*entrance) {
	for _, e := range entrances {
		_ = e.Close()
	}
}

// classes knows which runner classes have a socket of their own: those whose sockets are served, and those that the
// configuration binds since, whose sockets come with the next start of the service. Until then nobody has those.
type classes struct {
	served []string
	read   func() ([]string, error) // may be nil

	mu    sync.Mutex
	bound []string
}

func newClasses(opts Options) *classes {
	c := &classes{read: opts.Bound}
	for _, s := range opts.Sockets {
		c.served = append(c.served, s.RunnerClass)
	}
	return c
}

// refresh reads the configuration, before somebody else reads it and begins to believe what stands there. One that cannot be
// read changes nothing: nobody else can read it either.
func (c *classes) refresh() {
	if c.read == nil {
		return
	}
	bound, err := c.read()
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound = bound
}

func (c *classes) isBound(class string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.served, class) || slices.Contains(c.bound, class)
}

// settle makes the class of a job the one that its caller's socket is for, whoever the caller is. What the caller says must
// not contradict it, nor be another socket's.
func (c *classes) settle(e *entrance, prepare *api.Prepare) error {
	switch said := prepare.GetRunnerClass(); {
	case e.class != "" && said != "" && said != e.class:
		return fault.WithRemedy(fault.Adminf("the socket %s is that of runner class %q, and the driver was called with --runner-class %q",
			e.path, e.class, said), "remove --runner-class from prepare_args in the runner's config.toml, or name the right --socket in all four *_args")
	case e.class != "":
		prepare.RunnerClass = e.class
	case said != "" && c.isBound(said):
		return fault.WithRemedy(fault.Adminf("runner class %q has a socket of its own, and %s is not it", said, e.path),
			"name that socket with --socket in all four *_args in the runner's config.toml; [[sockets]] in Airlock's configuration says which it is, and who may use it")
	}
	return nil
}
