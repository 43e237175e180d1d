package microvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

const (
	// raiseTimeout bounds the making of a waiting machine, its warm-up included.
	raiseTimeout = time.Minute
	// raisePause is how long a sandbox that has just been made may have the processors for itself before the next machine is
	// raised.
	raisePause = 500 * time.Millisecond
	// raisedAtOnce bounds how many machines are raised side by side.
	raisedAtOnce = 2
	// adoptTimeout bounds how long a waiting machine may take to hear what it is to become: a few milliseconds are usual, and
	// another machine can be made meanwhile.
	adoptTimeout = 3 * time.Second
	// raiseRetries is how often in a row raising machines may fail. Then none are any more: sandboxes are made without.
	raiseRetries = 3
)

// pool keeps clones of templates waiting, for the shapes that were asked for by Warm: restored, with a guest that waits to
// be told what it is to become, and nothing of any job in them. A sandbox takes one, with its own disks and tap put behind
// the devices. The zero value is ready.
type pool struct {
	mutex    sync.Mutex
	wanted   map[shape]bool
	waiting  map[shape][]*vm
	raising  map[shape]int
	slots    chan struct{} // one for each machine that is raised now
	changed  chan struct{} // closed, and made anew, at every change
	failures int           // in a row
	ctx      context.Context
	cancel   context.CancelCauseFunc // at close
	work     sync.WaitGroup
}

// lock locks the pool, made ready.
func (p *pool) lock() (unlock func()) {
	p.mutex.Lock()
	if p.wanted == nil {
		p.wanted, p.waiting, p.raising = map[shape]bool{}, map[shape][]*vm{}, map[shape]int{}
		p.changed, p.slots = make(chan struct{}), make(chan struct{}, raisedAtOnce)
		p.ctx, p.cancel = context.WithCancelCause(context.Background())
	}
	return p.mutex.Unlock
}

// signal wakes all that wait for a change. The pool is locked.
func (p *pool) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// take returns a waiting machine of a shape, or nil.
func (p *pool) take(s shape) *vm {
	defer p.lock()()
	for len(p.waiting[s]) > 0 {
		v := p.waiting[s][0]
		p.waiting[s] = p.waiting[s][1:]
		if v.runs() {
			return v
		}
		v.kill() // it ended while it waited
	}
	return nil
}

// close ends all that wait.
func (p *pool) close() {
	unlock := p.lock()
	p.cancel(errors.New("the runtime is closed"))
	unlock()
	p.work.Wait()
	defer p.lock()()
	for _, all := range p.waiting {
		for _, v := range all {
			v.kill()
		}
	}
	p.waiting = map[shape][]*vm{}
}

// fill raises what is missing of a wanted shape, after a pause.
func (r *Runtime) fill(s shape, pause time.Duration) {
	p := &r.pool
	defer p.lock()()
	if !p.wanted[s] || p.ctx.Err() != nil || p.failures >= raiseRetries {
		return
	}
	for len(p.waiting[s])+p.raising[s] < r.options.Pool {
		p.raising[s]++
		p.work.Go(func() { r.raiseOne(s, pause) })
	}
}

func (r *Runtime) raiseOne(s shape, pause time.Duration) {
	p := &r.pool
	var v *vm
	var err error
	select {
	case <-time.After(pause):
		p.slots <- struct{}{}
		v, err = r.raise(p.ctx, s)
		<-p.slots
	case <-p.ctx.Done():
	}
	defer p.lock()()
	p.raising[s]--
	switch {
	case v != nil:
		p.failures = 0
		p.waiting[s] = append(p.waiting[s], v) // close, which waits for us, finds it
	case err != nil && p.ctx.Err() == nil:
		p.failures++
		event := r.logger.Warn().Err(err).Int("failures", p.failures)
		if p.failures == raiseRetries {
			event = event.Bool("given_up", true)
		}
		event.Msg("no machine could be made to wait for a sandbox")
	}
	p.signal()
}

// raise makes one waiting machine.
func (r *Runtime) raise(ctx context.Context, s shape) (*vm, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, raiseTimeout, fmt.Errorf("it took longer than %s", raiseTimeout))
	defer cancel()
	t, err := r.awaitTemplate(ctx, s) // one that was thrown away is being made again
	if err != nil {
		return nil, err
	}
	files := &descriptors{}
	m := r.cloneOf(t)
	warms := r.warmsUp()
	if warms {
		if err := r.attachWarmUp(ctx, &m, files); err != nil {
			files.close()
			return nil, err
		}
	}
	incoming, err := m.remember(t, files)
	if err != nil {
		return nil, err
	}
	v, err := startVM(r.jailed(), "waiting-"+rand.Text(), m, files)
	if err != nil {
		return nil, err
	}
	steps := []func() error{func() error { return v.wake(incoming) }}
	if warms {
		steps = append(steps, func() error { return r.warmUp(ctx, v) })
	}
	if err := v.run(ctx, steps...); err != nil {
		return nil, err
	}
	return v, nil
}

// awaitPool returns when as many machines of a shape wait as should.
func (r *Runtime) awaitPool(ctx context.Context, s shape) error {
	p := &r.pool
	unlock := p.lock()
	p.wanted[s], p.failures = true, 0 // who asks anew, as a reload does, is not answered with what failed before
	unlock()
	r.fill(s, 0)
	for {
		unlock := p.lock()
		missing, changed, failed := r.options.Pool-len(p.waiting[s]), p.changed, p.failures
		unlock()
		if missing <= 0 {
			return nil
		}
		if failed > 0 {
			return fault.Systemf("no machine could be made to wait; the log says why")
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return fault.Systemf("the runtime was closed")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// adoptGuest makes a waiting machine the sandbox's. It returns false if none waits.
func (r *Runtime) adoptGuest(ctx context.Context, s *sandbox, spec isolation.Spec, shape shape, setup agent.GuestSetup) (bool, error) {
	v := r.pool.take(shape)
	if v == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, adoptTimeout, fault.Systemf("the waiting machine did not answer within %s", adoptTimeout))
	defer cancel()
	s.take(v)
	if err := v.run(ctx,
		func() error { return r.cgroups.Add(spec.ID, v.command.Process.Pid) },
		func() error { return r.plug(v, spec) },
		func() error { return v.tell(ctx, setup) }); err != nil {
		return true, &restoreError{err}
	}
	return true, nil
}

// plug puts the sandbox's disks and tap behind the devices of a machine that runs, and throws away what was there.
func (r *Runtime) plug(v *vm, spec isolation.Spec) error {
	var files []*os.File
	defer func() {
		for _, file := range files {
			_ = file.Close() // QEMU has its own
		}
	}()
	var commands []command
	for i, serial := range diskOrder {
		file, size, err := openDisk(serial, spec)
		if err != nil {
			return err
		}
		if file == nil {
			continue
		}
		if serial == agent.GuestScratch {
			if err := v.limit(size); err != nil {
				return errors.Join(err, file.Close())
			}
		}
		files = append(files, file)
		set := firstPluggedSet + i
		commands = append(commands,
			command{Execute: "add-fd", Arguments: map[string]any{"fdset-id": set}, file: int(file.Fd())},
			command{Execute: "blockdev-add", Arguments: fileNode(serial, serial+"-job", set)},
			command{Execute: "qom-set", Arguments: map[string]any{
				"path": "/machine/peripheral/" + deviceOf(serial), "property": "drive", "value": serial + "-job",
			}},
			command{Execute: "blockdev-del", Arguments: map[string]any{"node-name": serial}})
	}
	if tap := spec.Network.TapFile; tap != nil {
		commands = append(commands,
			command{Execute: "getfd", Arguments: map[string]any{"fdname": "tap"}, file: int(tap.Fd())},
			command{Execute: "netdev_add", Arguments: map[string]any{"type": "tap", "id": "tap", "fd": "tap", "vhost": false}},
			// The device's own end is a port of the same hub.
			command{Execute: "netdev_add", Arguments: map[string]any{"type": "hubport", "id": "plug", "hubid": 0, "netdev": "tap"}})
	}
	_, err := v.monitor.run(commands...)
	return err
}

// firstPluggedSet numbers the descriptor sets of disks that are plugged in later: those of the command line are below.
const firstPluggedSet = 10
