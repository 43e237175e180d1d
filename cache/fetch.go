package cache

import (
	"context"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/airlock-ci/airlock/cache/layer"
	"github.com/airlock-ci/airlock/cache/records"
	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// fetchLayers makes an image's layers present: what is missing is transferred, a few layers at a time.
func (c *Cache) fetchLayers(ctx context.Context, p *pull, config *v1.ConfigFile) ([]records.Layer, error) {
	layers := make([]records.Layer, len(p.content.Layers))
	var missing []int
	ids := layer.IDs(config.RootFS.DiffIDs)
	for i, src := range p.content.Layers {
		layers[i].DiffID = ids[i]
		stored, usable := c.store.Usable(layers[i].DiffID, p.repo)
		if layers[i].Set(stored); !usable {
			missing = append(missing, i)
			p.total.Add(src.Blob.Size)
		}
	}
	p.missing.Store(int64(len(missing)))
	present := newPresence(len(layers), missing)
	left := space.NewBudget(Use{Bytes: c.opts.MaxUnpacked, Inodes: c.opts.MaxEntries}, &c.counters.TooLarge)
	if err := left.Take(records.UseOf(layers)); err != nil { // those that are here
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(layer.Parallel)
	for _, i := range missing {
		group.Go(func() error {
			src := p.content.Layers[i]
			wanted := layer.Wanted{Blob: src.Blob, Open: src.Open, DiffID: config.RootFS.DiffIDs[i].String(), ID: ids[i], Below: ids[:i],
				AwaitBelow: func(ctx context.Context) error { return present.await(ctx, i) }, Transferred: &p.done}
			stored, err := c.fetchLayer(ctx, p, wanted, left)
			layers[i].Set(stored)
			present.set(i, err)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// Layers that other pulls transferred at the same time were taken from their budgets.
	return layers, left.Check(records.UseOf(layers))
}

// holdAll keeps layers from being removed until release, which removes those that no image has by then.
func (c *Cache) holdAll(ids []string) (release func()) {
	for _, id := range ids {
		c.store.Hold(id, 1)
	}
	return func() {
		for _, id := range ids {
			c.store.Hold(id, -1)
		}
		c.store.DropUnnamed()
	}
}

// fetchLayer makes one layer present for p's repository and returns what it is like. Pulls that need the
// same layer at the same time transfer it once.
func (c *Cache) fetchLayer(ctx context.Context, p *pull, l layer.Wanted, left *space.Budget) (layer.Stored, error) {
	for {
		if stored, usable := c.store.Usable(l.ID, p.repo); usable {
			return stored, nil
		}
		flight, led := c.transfers.Join(l.ID, struct{}{},
			func(ctx context.Context, _ struct{}) error { return c.transferLayer(ctx, p, l, left) })
		err := flight.Wait(ctx)
		if err != nil && (led || ctx.Err() != nil) {
			return layer.Stored{}, err
		}
		// Somebody else's transfer may have failed for his own reasons, or not count for this repository.
	}
}

// transferLayer reads a layer from its origin and stores it; if it is here already, but only by way of a
// private image of another repository, reading it through proves that this repository has it too.
func (c *Cache) transferLayer(ctx context.Context, p *pull, l layer.Wanted, left *space.Budget) (err error) {
	claim := c.room.Claim()
	defer claim.End()
	left = left.ForLayer(ctx, claim)
	defer func() {
		if err != nil {
			left.GiveBack()
		}
	}()
	if c.store.Has(l.ID) {
		if err := layer.Read(ctx, l, left, func(io.Reader) error { return nil }); err != nil {
			return fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		c.store.Grant(l.ID, layer.Stored{}, p.repo, p.private)
		return nil
	}
	stored, err := c.layers.Store(ctx, l, left)
	if err != nil {
		return err
	}
	claim.End()
	c.store.Grant(l.ID, stored, p.repo, p.private)
	if ctx.Err() != nil { // nobody waits for it, and its pull no longer holds it
		c.store.DropUnnamed()
	}
	return nil
}

// presence tells which of an image's layers are there, as they come. A layer may be transferred and unpacked before those
// below it, but it is fitted to them.
type presence struct {
	done []chan struct{} // closed when the layer is there or will not come
	errs []error         // valid then
}

func newPresence(layers int, missing []int) *presence {
	p := &presence{done: make([]chan struct{}, layers), errs: make([]error, layers)}
	for i := range p.done {
		p.done[i] = make(chan struct{})
		if !slices.Contains(missing, i) {
			close(p.done[i])
		}
	}
	return p
}

func (p *presence) set(layer int, err error) {
	p.errs[layer] = err
	close(p.done[layer])
}

// await waits for all layers below one.
func (p *presence) await(ctx context.Context, layer int) error {
	for i := range layer {
		select {
		case <-p.done[i]:
			if p.errs[i] != nil {
				return p.errs[i] // the pull fails with that
			}
		case <-ctx.Done():
			return fault.Systemf("interrupted: %w", context.Cause(ctx))
		}
	}
	return nil
}
