package hcssim

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// sharedGuests run every container's processes in the clients' prefix, a job for each.
type sharedGuests struct {
	guest  *guest
	prefix *prefix

	mu     sync.Mutex
	jobs   uint64
	mapped map[string]*link // by native path of the container's side
}

// link is a mapped directory: several containers may have the same.
type link struct {
	host  string
	users int
}

func (*sharedGuests) Merge(service.Scratch) (string, error) { return "", nil }
func (*sharedGuests) Split(string)                          {}
func (g *sharedGuests) close()                              { g.guest.close() }

func (g *sharedGuests) Boot(container service.Container) (service.Guest, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.jobs++
	job := &sharedGuest{all: g, job: g.jobs}
	for _, dir := range container.Mapped {
		path, err := g.prefix.Path(dir.Container)
		if err == nil {
			err = g.mapDirectory(path, dir.Host)
		}
		if err != nil {
			g.unmap(job.links)
			return nil, fmt.Errorf("mapping %s: %w", dir.Container, err)
		}
		job.links = append(job.links, path)
	}
	return job, nil
}

func (g *sharedGuests) mapDirectory(path, host string) error {
	if g.mapped == nil {
		g.mapped = map[string]*link{}
	}
	if known := g.mapped[path]; known != nil {
		if known.host != host {
			return fmt.Errorf("in a shared prefix it leads to %s already", known.host)
		}
		known.users++
		return nil
	}
	if err := os.MkdirAll(path[:strings.LastIndex(path, "/")], 0o777); err != nil {
		return err
	}
	os.Remove(path) // an empty directory
	if err := os.Symlink(host, path); err != nil {
		return err
	}
	g.mapped[path] = &link{host: host, users: 1}
	return nil
}

func (g *sharedGuests) unmap(paths []string) {
	for _, path := range paths {
		known := g.mapped[path]
		if known.users--; known.users == 0 {
			os.Remove(path)
			delete(g.mapped, path)
		}
	}
}

type sharedGuest struct {
	all   *sharedGuests
	job   uint64
	links []string
	once  sync.Once
}

func (g *sharedGuest) Run(p service.Process) (uint64, func(uint32), error) {
	return g.all.guest.run(g.job, p)
}

func (g *sharedGuest) Close() {
	g.once.Do(func() {
		g.all.guest.endJob(g.job)
		g.all.mu.Lock()
		defer g.all.mu.Unlock()
		g.all.unmap(g.links)
	})
}
