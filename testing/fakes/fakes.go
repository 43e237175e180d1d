// Package fakes holds in-memory stand-ins for what a job's life needs: layers, networks, a runtime. They keep
// count of what they gave out, so that a test of package jobs can say in microseconds that nothing was left,
// and each can be told to fail. They isolate nothing; the real ones are proven by testing/conformance.
package fakes

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// World is a host that exists in memory only. Its fields may be read when no call is under way.
type World struct {
	mu sync.Mutex
	// Fail makes the named operation fail: "base", "scratch", "network", "create", "destroy", "detach",
	// "discard", "start".
	Fail map[string]error
	// Script is what a stage does: it returns the status. It ends early when ctx does.
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
func (w *World) Base(_ context.Context, req jobs.BaseRequest, progress io.Writer) (jobs.Base, error) {
	if err := w.take("base", w.leases, req.Holder); err != nil {
		return jobs.Base{}, err
	}
	fmt.Fprintf(progress, "Pulled %s\n", req.Image)
	root := isolation.Root{Layers: []string{"/fake/layers/" + req.Image}}
	if req.Level == isolation.HypervisorLevel {
		root = isolation.Root{Disk: "/fake/disks/" + req.Image}
	}
	return jobs.Base{Image: req.Image, Digest: "sha256:fake", Root: root, Pulled: true, Bytes: 1536}, nil
}

// Release implements jobs.Layers.
func (w *World) Release(holder string) { _ = w.give("", w.leases, holder) }

// NewScratch implements jobs.Layers.
func (w *World) NewScratch(_ context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	scratch := jobs.Scratch{Dir: "/fake/" + req.ID}
	if req.Level == isolation.HypervisorLevel {
		scratch = jobs.Scratch{Disk: "/fake/" + req.ID + ".img"}
	}
	return scratch, w.take("scratch", w.scratches, req.ID)
}

// DestroyScratch implements jobs.Layers.
func (w *World) DestroyScratch(_ context.Context, id string) error {
	return w.give("discard", w.scratches, id)
}

// Scratches implements jobs.Layers.
func (w *World) Scratches(context.Context) ([]string, error) { return w.keys(w.scratches), nil }

// CacheVolume implements jobs.Layers.
func (w *World) CacheVolume(_ context.Context, scope string) (string, error) {
	return "/fake/volumes/" + scope, nil
}

// Attach implements jobs.Networks.
func (w *World) Attach(_ context.Context, id, _ string, _ isolation.Level) (isolation.Network, error) {
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

// Runtime returns a runtime of the level whose sandboxes exist in w.
func (w *World) Runtime(level isolation.Level) isolation.Runtime { return &runtime{w, level} }

type runtime struct {
	world *World
	level isolation.Level
}

func (r *runtime) Name() string           { return "fake" }
func (r *runtime) Level() isolation.Level { return r.level }

func (r *runtime) Create(_ context.Context, spec isolation.Spec) (isolation.Sandbox, error) {
	if err := r.world.take("create", nil, ""); err != nil {
		return nil, err
	}
	s := &sandbox{world: r.world, spec: spec, done: make(chan struct{})}
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	r.world.sandboxes[spec.ID] = s
	r.world.Created = append(r.world.Created, spec)
	return s, nil
}

func (r *runtime) List(context.Context) ([]string, error) {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	var ids []string
	for id := range r.world.sandboxes {
		ids = append(ids, id)
	}
	return ids, nil
}

func (r *runtime) Destroy(ctx context.Context, id string) error {
	r.world.mu.Lock()
	s := r.world.sandboxes[id]
	r.world.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Destroy(ctx)
}

type sandbox struct {
	world *World
	spec  isolation.Spec
	once  sync.Once
	done  chan struct{}
}

func (s *sandbox) ID() string            { return s.spec.ID }
func (s *sandbox) Done() <-chan struct{} { return s.done }

func (s *sandbox) Stats(context.Context) (isolation.Stats, error) {
	return isolation.Stats{Memory: 1 << 20, PIDs: 1, CPU: time.Second}, nil
}

func (s *sandbox) Destroy(context.Context) error {
	if err := s.world.take("destroy", nil, ""); err != nil {
		return err
	}
	s.once.Do(func() { close(s.done) })
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	delete(s.world.sandboxes, s.spec.ID)
	return nil
}

func (s *sandbox) Start(_ context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	if err := s.world.take("start", nil, ""); err != nil {
		return nil, err
	}
	p := &process{sandbox: s, exit: make(chan isolation.Exit, 1), signals: make(chan int, 8)}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		code := s.world.Script(ctx, spec)
		select {
		case signal := <-p.signals:
			p.exit <- isolation.Exit{Code: 128 + signal, Signal: signal}
		default:
			p.exit <- isolation.Exit{Code: code}
		}
	}()
	p.cancel = cancel
	return p, nil
}

type process struct {
	sandbox *sandbox
	exit    chan isolation.Exit
	signals chan int
	cancel  context.CancelCauseFunc
}

func (p *process) Wait() (isolation.Exit, error) {
	defer p.cancel(nil)
	select {
	case exit := <-p.exit:
		return exit, nil
	case <-p.sandbox.done:
		return isolation.Exit{}, isolation.ErrSandboxGone
	}
}

// Signal ends the script, as 15 and 9 do to one that does not ignore them.
func (p *process) Signal(_ context.Context, signal int) error {
	p.signals <- signal
	p.cancel(fmt.Errorf("signal %d", signal))
	return nil
}

func (p *process) Resize(context.Context, uint16, uint16) error { return nil }
