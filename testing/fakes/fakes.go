// Package fakes holds stand-ins for what a job's life needs: layers, networks, runtimes.
//
// A World is a host in memory. It keeps count of what it gave out, so that a test of package jobs can say in
// microseconds that nothing was left, it can be told to fail, and its stages are calls of a function. Its shell
// runtime executes them instead; Layers keeps real images in plain directories. Both pass the suites of
// testing/conformance but for the deviations that their tests name; neither isolates or limits anything.
package fakes

import (
	"context"
	"slices"
	"sync"

	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// World is a host that exists in memory only. Its fields may be read when no call is under way.
type World struct {
	mu sync.Mutex
	// Fail makes the named operation fail: "base", "scratch", "network", "create", "destroy", "detach",
	// "discard", "start".
	Fail map[string]error
	// Script is what a stage does: it returns the status. It has to end when ctx does.
	Script func(ctx context.Context, spec isolation.ProcessSpec) int
	// Created is what sandboxes were made of, in their order.
	Created []isolation.Spec

	leases, scratches, networks map[string]bool
	sandboxes                   map[string]*sandbox
}

// NewWorld returns a host on which everything works and every script succeeds at once.
func NewWorld() *World {
	return &World{
		Fail:   map[string]error{},
		Script: func(context.Context, isolation.ProcessSpec) int { return 0 },
		leases: map[string]bool{}, scratches: map[string]bool{}, networks: map[string]bool{},
		sandboxes: map[string]*sandbox{},
	}
}

// Leftovers names everything that was given out and not taken back.
func (w *World) Leftovers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	for kind, ids := range map[string]map[string]bool{"lease": w.leases, "scratch": w.scratches, "network": w.networks} {
		for id := range ids {
			left = append(left, kind+" "+id)
		}
	}
	for id := range w.sandboxes {
		left = append(left, "sandbox "+id)
	}
	slices.Sort(left)
	return left
}

func (w *World) take(operation string, set map[string]bool, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.Fail[operation]; err != nil {
		return err
	}
	if set != nil {
		set[id] = true
	}
	return nil
}

func (w *World) give(operation string, set map[string]bool, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.Fail[operation]; err != nil {
		return err
	}
	delete(set, id)
	return nil
}

// Base implements jobs.Layers.
func (w *World) Base(_ context.Context, req jobs.BaseRequest, log *joblog.Log) (jobs.Base, error) {
	if err := w.take("base", w.leases, req.Holder); err != nil {
		return jobs.Base{}, err
	}
	log.Progress("Pulled %s", req.Image)
	root := isolation.Root{Layers: []string{"/fake/layers/" + req.Image}}
	if req.Form == isolation.RootDisk {
		root = isolation.Root{Disk: "/fake/disks/" + req.Image}
	}
	return jobs.Base{Image: req.Image, Digest: "sha256:fake", Root: root, Pulled: true, Bytes: 1536}, nil
}

// Release implements jobs.Layers.
func (w *World) Release(holder string) { _ = w.give("", w.leases, holder) }

// NewScratch implements jobs.Layers.
func (w *World) NewScratch(_ context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	scratch := jobs.Scratch{Dir: "/fake/" + req.ID}
	if req.Form == isolation.ScratchDisk {
		scratch = jobs.Scratch{Disk: "/fake/" + req.ID + ".img"}
	}
	return scratch, w.take("scratch", w.scratches, req.ID)
}

// DestroyScratch implements jobs.Layers.
func (w *World) DestroyScratch(_ context.Context, id string) error {
	return w.give("discard", w.scratches, id)
}

// ScratchUsed implements jobs.Layers.
func (w *World) ScratchUsed(context.Context, string) (int64, error) { return 4096, nil }

// Scratches implements jobs.Layers.
func (w *World) Scratches(context.Context) ([]string, error) { return w.keys(w.scratches), nil }

// CacheVolume implements jobs.Layers.
func (w *World) CacheVolume(_ context.Context, scope string) (string, error) {
	return "/fake/volumes/" + scope, nil
}

// Attach implements jobs.Networks.
func (w *World) Attach(_ context.Context, id, _ string, _ isolation.NetworkForm) (isolation.Network, error) {
	return isolation.Network{Address: "192.0.2.1"}, w.take("network", w.networks, id)
}

// Detach implements jobs.Networks.
func (w *World) Detach(_ context.Context, id string) error { return w.give("detach", w.networks, id) }

// Attached implements jobs.Networks.
func (w *World) Attached(context.Context) ([]string, error) { return w.keys(w.networks), nil }

func (w *World) keys(set map[string]bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id := range set {
		ids = append(ids, id)
	}
	return ids
}
