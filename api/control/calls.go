package control

import (
	"context"
	"errors"
	"sync"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// ErrStopping says that the executor is ending. It is the cause with which the contexts of its calls end then.
var ErrStopping = errors.New("the executor is stopping")

var errCallEnded = errors.New("the call has ended")

// calls are those in progress.
type calls struct {
	mu      sync.Mutex
	refused bool // further ones
	needed  int  // calls whose loss somebody would notice
	cancels map[*context.CancelCauseFunc]struct{}
	running sync.WaitGroup
}

func newCalls() *calls { return &calls{cancels: map[*context.CancelCauseFunc]struct{}{}} }

// begin is Server.Begin.
func (c *calls) begin(parent context.Context, needed bool) (ctx context.Context, finish func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused {
		return parent, nil, api.NotBegun(fault.Systemf("%w", ErrStopping))
	}
	ctx, cancel := context.WithCancelCause(parent)
	key := &cancel
	c.cancels[key] = struct{}{}
	c.running.Add(1)
	if needed {
		c.needed++
	}
	return ctx, func() {
		cancel(errCallEnded)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.cancels, key)
		if needed {
			c.needed--
		}
		c.running.Done()
	}, nil
}

// refuse refuses further calls, or no longer, and returns how many are needed.
func (c *calls) refuse(refused bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = refused
	return c.needed
}

// count returns how many are needed.
func (c *calls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.needed
}

func (c *calls) refuses() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// stop refuses further calls and cancels the running ones; done is closed when they have all returned.
func (c *calls) stop() (done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = true
	for cancel := range c.cancels {
		(*cancel)(ErrStopping)
	}
	ended := make(chan struct{})
	go func() {
		c.running.Wait()
		close(ended)
	}()
	return ended
}
