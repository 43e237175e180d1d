package fakes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// engine makes a sandbox's processes: what runtimes differ in.
type engine interface {
	name() string
	// create makes what the processes of a sandbox run in, all or nothing; remove removes it.
	create(spec isolation.Spec) error
	remove(spec isolation.Spec) error
	// start starts a process, which ends when ctx does.
	start(ctx context.Context, sandbox isolation.Spec, spec isolation.ProcessSpec) (task, error)
}

// task is a process without its sandbox.
type task interface {
	wait() isolation.Exit
	signal(number int) error
	resize(rows, columns uint16) error
}

// Runtime returns a runtime of the level whose sandboxes exist in w, and whose stages are calls of w.Script.
func (w *World) Runtime(level isolation.Level) isolation.Runtime {
	return &runtime{w, level, scripts{w}}
}

type runtime struct {
	world *World
	level isolation.Level
	engine
}

// Name differs by level: a host has no two runtimes of one name.
func (r *runtime) Name() string {
	if r.level == isolation.HypervisorLevel {
		return r.name() + "-machine"
	}
	return r.name()
}

func (r *runtime) Level() isolation.Level { return r.level }

func (r *runtime) Needs() isolation.Needs {
	if r.level == isolation.HypervisorLevel {
		return isolation.Needs{Root: isolation.RootDisk, Scratch: isolation.ScratchDisk, Network: isolation.NetworkTap}
	}
	return isolation.Needs{
		Root: isolation.RootLayers, Scratch: isolation.ScratchDirectory, Network: isolation.NetworkNamespace, HostDirectories: true,
	}
}

func (r *runtime) Create(ctx context.Context, spec isolation.Spec) (isolation.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !isolation.ValidID(spec.ID) {
		return nil, fmt.Errorf("%q is no sandbox id", spec.ID)
	}
	s := &sandbox{world: r.world, engine: r.engine, spec: spec, done: make(chan struct{})}
	s.alive, s.end = context.WithCancelCause(context.Background())
	if err := r.world.enter(s); err != nil {
		return nil, err
	}
	if err := r.create(spec); err != nil {
		r.world.leave(s)
		return nil, err
	}
	return s, nil
}

func (w *World) enter(s *sandbox) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.Fail["create"]; err != nil {
		return err
	}
	if w.sandboxes[s.spec.ID] != nil {
		return fmt.Errorf("there is a sandbox %s already", s.spec.ID)
	}
	w.sandboxes[s.spec.ID] = s
	w.Created = append(w.Created, s.spec)
	return nil
}

func (w *World) leave(s *sandbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sandboxes, s.spec.ID)
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
	if !isolation.ValidID(id) {
		return fmt.Errorf("%q is no sandbox id", id)
	}
	r.world.mu.Lock()
	s := r.world.sandboxes[id]
	r.world.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Destroy(ctx)
}

type sandbox struct {
	world  *World
	engine engine
	spec   isolation.Spec
	done   chan struct{}

	alive context.Context // ends with the sandbox; every process does with it
	end   context.CancelCauseFunc

	mu        sync.Mutex // no process starts while the sandbox is ended
	processes sync.WaitGroup

	removing sync.Mutex
	removed  bool
}

func (s *sandbox) ID() string            { return s.spec.ID }
func (s *sandbox) Done() <-chan struct{} { return s.done }

// Stats returns the same for every living sandbox: nothing is measured.
func (s *sandbox) Stats(context.Context) (isolation.Stats, error) {
	if s.alive.Err() != nil {
		return isolation.Stats{}, isolation.ErrSandboxGone
	}
	return isolation.Stats{Memory: 1 << 20, PIDs: 1, CPU: time.Second}, nil
}

func (s *sandbox) Destroy(context.Context) error {
	if err := s.world.take("destroy", nil, ""); err != nil {
		return err
	}
	s.mu.Lock()
	s.end(isolation.ErrSandboxGone)
	s.mu.Unlock()
	s.processes.Wait()

	s.removing.Lock()
	defer s.removing.Unlock()
	if s.removed {
		return nil
	}
	if err := s.engine.remove(s.spec); err != nil {
		return err
	}
	s.removed = true
	s.world.leave(s)
	close(s.done)
	return nil
}

func (s *sandbox) Start(_ context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	if err := s.world.take("start", nil, ""); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alive.Err() != nil {
		return nil, isolation.ErrSandboxGone
	}
	started, err := s.engine.start(s.alive, s.spec, spec)
	if err != nil {
		return nil, err
	}
	p := &process{task: started, ended: make(chan struct{})}
	s.processes.Go(func() {
		defer close(p.ended)
		p.exit = started.wait()
		if s.alive.Err() != nil {
			p.exit, p.err = isolation.Exit{}, isolation.ErrSandboxGone
		}
	})
	return p, nil
}

type process struct {
	task  task
	ended chan struct{}
	exit  isolation.Exit
	err   error
}

func (p *process) Wait() (isolation.Exit, error) {
	<-p.ended
	return p.exit, p.err
}

func (p *process) Signal(_ context.Context, signal int) error { return p.task.signal(signal) }

func (p *process) Resize(_ context.Context, rows, columns uint16) error {
	return p.task.resize(rows, columns)
}

// scripts is the engine whose processes are calls of World.Script.
type scripts struct{ world *World }

func (scripts) name() string                { return "fake" }
func (scripts) create(isolation.Spec) error { return nil }
func (scripts) remove(isolation.Spec) error { return nil }

func (e scripts) start(ctx context.Context, _ isolation.Spec, spec isolation.ProcessSpec) (task, error) {
	call := &call{script: e.world.Script, spec: spec}
	call.ctx, call.cancel = context.WithCancelCause(ctx)
	return call, nil
}

// call is one call of World.Script.
type call struct {
	script func(context.Context, isolation.ProcessSpec) int
	spec   isolation.ProcessSpec
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// signalled is the cause with which a signal ends a call.
type signalled int

func (s signalled) Error() string { return fmt.Sprintf("signal %d", int(s)) }

func (c *call) wait() isolation.Exit {
	code := c.script(c.ctx, c.spec)
	var signal signalled
	if errors.As(context.Cause(c.ctx), &signal) {
		return isolation.Exit{Code: 128 + int(signal), Signal: int(signal)}
	}
	c.cancel(nil)
	return isolation.Exit{Code: code}
}

// signal ends the script, as 15 and 9 do to one that does not ignore them.
func (c *call) signal(number int) error {
	c.cancel(signalled(number))
	return nil
}

func (c *call) resize(uint16, uint16) error { return nil }
