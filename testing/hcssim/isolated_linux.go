package hcssim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// isolatedGuests give each container a prefix of its own. Its C: is an overlay: the scratch above its layers, and below
// them the template's C:, because no image of a test brings Windows along.
type isolatedGuests struct {
	*sharedGuests // only for clients: containers never run there
	template      template
	broker        *broker
	dir           string
	build         int

	mu   sync.Mutex
	last int
}

// next returns a new directory.
func (g *isolatedGuests) next(kind string) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	path := filepath.Join(g.dir, kind+strconv.Itoa(g.last))
	return path, os.MkdirAll(path, 0o755)
}

// Merge mounts the overlay. The upper-most layer is complete (service, importLayer), so that it stands for all.
func (g *isolatedGuests) Merge(scratch service.Scratch) (string, error) {
	merged, err := g.next("merged")
	if err != nil {
		return "", err
	}
	lower := filepath.Join(scratch.Layers[0], "Files") + ":" + g.template.dlls + ":" + filepath.Join(g.template.wine, "drive_c")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, scratch.Upper, scratch.Work)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mounting an overlay (%s), which needs root: %w", options, err)
	}
	return merged, nil
}

// Split unmounts the overlay.
func (g *isolatedGuests) Split(merged string) {
	unix.Unmount(merged, unix.MNT_DETACH)
	os.Remove(merged)
}

// Boot starts Wine on a container's C:.
func (g *isolatedGuests) Boot(container service.Container) (service.Guest, error) {
	dir, err := g.next("guest")
	if err != nil {
		return nil, err
	}
	box := &isolatedGuest{prefix: &prefix{dir: dir, drive: container.Merged, held: map[string]bool{}}}
	if err := box.prefix.provision(g.template, g.build, container.Merged); err != nil {
		return nil, err
	}
	for _, mapped := range container.Mapped {
		if err := box.bind(mapped); err != nil {
			box.Close()
			return nil, err
		}
	}
	if box.guest, err = box.prefix.startGuest(g.broker); err != nil {
		box.Close()
		return nil, err
	}
	return box, nil
}

// isolatedGuest is one container's prefix.
type isolatedGuest struct {
	prefix *prefix
	guest  *guest
	binds  []string
	once   sync.Once
}

// bind mounts a mapped directory into the container's C:.
func (g *isolatedGuest) bind(mapped service.Mapped) error {
	at, err := g.prefix.Path(mapped.Container)
	if err != nil {
		return fmt.Errorf("mapping %s: %w", mapped.Container, err)
	}
	if err := os.MkdirAll(at, 0o777); err != nil {
		return err
	}
	if err := unix.Mount(mapped.Host, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mapping %s: %w", mapped.Container, err)
	}
	g.binds = append(g.binds, at)
	if !mapped.ReadOnly {
		return nil
	}
	return unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

func (g *isolatedGuest) Run(p service.Process) (uint64, func(uint32), error) {
	return g.guest.run(1, p)
}

func (g *isolatedGuest) Close() {
	g.once.Do(func() {
		if g.guest != nil {
			g.guest.endJob(1)
			g.guest.close()
		}
		g.prefix.stop()
		for _, at := range g.binds {
			unix.Unmount(at, unix.MNT_DETACH)
		}
		os.RemoveAll(g.prefix.dir)
	})
}
