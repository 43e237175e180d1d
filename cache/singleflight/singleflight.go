// Package singleflight does equal work once: a caller that asks for work that is under way joins it.
//
// It owns the work's context, which ends when the last waiter has left. It never hands out a result after the work has
// ended. The facade of the cache calls it, for pulls, transfers of layers, and disks. golang.org/x/sync/singleflight does
// not fit: its work has no context, so that nobody can end it, and its waiters see nothing of how far it is. A pull that no
// job waits for any more must end, and one that goes on is told in every waiter's log.
package singleflight

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Group is work of one kind, by keys. S is what waiters may watch while they wait; it does its own locking.
type Group[S any] struct {
	life       context.Context //nolint:containedctx // of all the work
	background *sync.WaitGroup

	mu      sync.Mutex
	running map[string]*Flight[S]
}

// Flight is work that is under way, or was.
type Flight[S any] struct {
	// State is that of who started the work.
	State S

	group   *Group[S]
	key     string
	cancel  context.CancelCauseFunc
	waiters int // guarded by group.mu
	done    chan struct{}
	err     error // valid when done is closed
}

var errAbandoned = errors.New("nobody waits for it any more")

// NewGroup returns a group whose work ends at the latest with life, and is counted by background.
func NewGroup[S any](life context.Context, background *sync.WaitGroup) *Group[S] {
	return &Group[S]{life: life, background: background, running: map[string]*Flight[S]{}}
}

// Join joins the work under way for key, or starts it with a state: then the caller led. The caller must Wait for it.
func (g *Group[S]) Join(key string, state S, work func(context.Context, S) error) (f *Flight[S], led bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f = g.running[key]; f != nil {
		f.waiters++
		return f, false
	}
	ctx, cancel := context.WithCancelCause(g.life)
	f = &Flight[S]{State: state, group: g, key: key, cancel: cancel, waiters: 1, done: make(chan struct{})}
	g.running[key] = f
	g.background.Go(func() {
		defer cancel(nil)
		f.err = work(ctx, f.State)
		f.end()
		close(f.done)
	})
	return f, true
}

// Wait returns the work's error, or the cause of ctx's end, whichever comes first. The work goes on until it is done or its
// last waiter has left.
func (f *Flight[S]) Wait(ctx context.Context) error {
	return f.Watch(ctx, time.Hour, func() time.Duration { return time.Hour })
}

// Watch is Wait that calls tick after an interval, and then after each that tick returns.
func (f *Flight[S]) Watch(ctx context.Context, interval time.Duration, tick func() time.Duration) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-f.done:
			return f.err
		case <-timer.C:
			timer.Reset(tick())
		case <-ctx.Done():
			f.leave()
			return context.Cause(ctx)
		}
	}
}

func (f *Flight[S]) leave() {
	f.group.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last {
		f.forget() // who comes now starts afresh
	}
	f.group.mu.Unlock()
	if last {
		f.cancel(errAbandoned)
	}
}

func (f *Flight[S]) end() {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	f.forget()
}

// forget lets nobody join any more. The caller holds the lock.
func (f *Flight[S]) forget() {
	if f.group.running[f.key] == f {
		delete(f.group.running, f.key)
	}
}
