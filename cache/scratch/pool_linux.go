package scratch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/airlock-ci/airlock/internal/fault"
)

// readyDisks is how many formatted disk images of a size are kept ready.
const readyDisks = 3

// pool keeps formatted disk images ready: taking one is a rename.
type pool struct {
	opts Options

	mu        sync.Mutex
	templates map[int64]string
	ready     map[int64][]string
	filling   map[int64]bool
}

func newPool(opts Options) *pool {
	return &pool{opts: opts, templates: map[int64]string{}, ready: map[int64][]string{}, filling: map[int64]bool{}}
}

// prepare finds out early whether disk images can be made, and makes the first.
func (p *pool) prepare() error {
	if _, err := findMkfs(); err != nil {
		return err
	}
	if size := p.opts.ReadySize; size >= minScratch {
		p.refill(size)
	}
	return nil
}

// take moves a formatted disk image of a size to path.
func (p *pool) take(ctx context.Context, size int64, path string) error {
	p.mu.Lock()
	var disk string
	if ready := p.ready[size]; len(ready) > 0 {
		disk, p.ready[size] = ready[len(ready)-1], ready[:len(ready)-1]
	}
	p.mu.Unlock()
	if disk == "" {
		var err error
		if disk, err = p.make(ctx, size); err != nil {
			return err
		}
	}
	p.refill(size)
	if err := os.Rename(disk, path); err != nil {
		return fault.Systemf("taking a disk image: %w", err)
	}
	return nil
}

// refill makes disk images of a size in the background until enough are ready.
func (p *pool) refill(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filling[size] || len(p.ready[size]) >= readyDisks {
		return
	}
	p.filling[size] = true
	p.opts.Background.Go(func() {
		for p.addReady(size) {
		}
	})
}

// addReady adds one disk image and reports whether more are wanted.
func (p *pool) addReady(size int64) bool {
	disk, err := p.make(p.opts.Life, size)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.opts.Log.Error().Err(err).Int64("size", size).Msg("cannot keep scratch disks ready")
		p.filling[size] = false
		return false
	}
	p.ready[size] = append(p.ready[size], disk)
	p.filling[size] = len(p.ready[size]) < readyDisks
	return p.filling[size]
}

// make copies the template of a size.
func (p *pool) make(ctx context.Context, size int64) (disk string, err error) {
	template, err := p.template(ctx, size)
	if err != nil {
		return "", err
	}
	target, err := os.CreateTemp(p.opts.Pool, "disk-*")
	if err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	source, err := os.Open(template)
	if err == nil {
		err = errors.Join(copySparse(target, source, size), source.Close())
	}
	if err = errors.Join(err, target.Close()); err != nil {
		return "", errors.Join(fault.Systemf("making a disk image: %w", err), os.Remove(target.Name()))
	}
	return target.Name(), nil
}

// template formats the first disk image of a size in this process.
func (p *pool) template(ctx context.Context, size int64) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path := p.templates[size]; path != "" {
		return path, nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("making a disk image: %w", context.Cause(ctx))
	}
	mkfs, err := findMkfs()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(p.opts.Pool, "template-*")
	if err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return "", fault.Systemf("making a disk image: %w", err)
	}
	if err := format(ctx, mkfs, f.Name()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	p.templates[size] = f.Name()
	return f.Name(), nil
}
