package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flights does equal work once: who asks for work that is under way joins it. The work goes on until it is
// done or its last waiter has left. S is what waiters may watch while they wait; it does its own locking.
type flights[S any] struct {
	life       context.Context
	background *sync.WaitGroup

	mu      sync.Mutex
	running map[string]*flight[S]
}

type flight[S any] struct {
	state   S
	cancel  context.CancelCauseFunc
	waiters int // guarded by flights.mu
	done    chan struct{}
	err     error // valid when done is closed
}

var errAbandoned = errors.New("nobody waits for it any more")

func (f *flights[S]) init(life context.Context, background *sync.WaitGroup) {
	f.life, f.background = life, background
	f.running = map[string]*flight[S]{}
}

// join joins the work under way for key, or starts it (led). The caller must wait for it.
func (f *flights[S]) join(key string, state func() S, work func(context.Context, S) error) (fl *flight[S], led bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl = f.running[key]; fl != nil {
		fl.waiters++
		return fl, false
	}
	ctx, cancel := context.WithCancelCause(f.life)
	fl = &flight[S]{state: state(), cancel: cancel, waiters: 1, done: make(chan struct{})}
	f.running[key] = fl
	f.background.Go(func() {
		defer cancel(nil)
		fl.err = work(ctx, fl.state)
		f.forget(key, fl)
		close(fl.done)
	})
	return fl, true
}

// wait returns the work's error, or the cause of ctx's end, whichever comes first. Every interval it calls
// tick, which may set a new one.
func (f *flights[S]) wait(ctx context.Context, key string, fl *flight[S], interval time.Duration, tick func() time.Duration) error {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-fl.done:
			return fl.err
		case <-timer.C:
			timer.Reset(tick())
		case <-ctx.Done():
			f.leave(key, fl)
			return context.Cause(ctx)
		}
	}
}

func (f *flights[S]) leave(key string, fl *flight[S]) {
	f.mu.Lock()
	fl.waiters--
	last := fl.waiters == 0
	if last && f.running[key] == fl {
		delete(f.running, key) // who comes now starts afresh
	}
	f.mu.Unlock()
	if last {
		fl.cancel(errAbandoned)
	}
}

func (f *flights[S]) forget(key string, fl *flight[S]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[key] == fl {
		delete(f.running, key)
	}
}
