package agent

import (
	"sync"
	"time"
)

// killClock measures how long the agent takes to report the end of a killed process. It stands still while the
// consumer of the output is busy, because then it is not the agent that is slow.
type killClock struct {
	mu      sync.Mutex
	left    time.Duration
	since   time.Time
	timer   *time.Timer // nil unless running
	started bool
	paused  bool
	expired func()
}

// newKillClock returns a clock that calls expired once after it ran for limit.
func newKillClock(limit time.Duration, expired func()) *killClock {
	return &killClock{left: limit, expired: expired}
}

// start starts the clock, once.
func (k *killClock) start() { k.change(func() { k.started = true }) }

// pause and resume enclose the consumer's time.
func (k *killClock) pause()  { k.change(func() { k.paused = true }) }
func (k *killClock) resume() { k.change(func() { k.paused = false }) }

// stop stops the clock for good.
func (k *killClock) stop() { k.change(func() { k.expired = nil }) }

func (k *killClock) change(set func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	set()
	run := k.started && !k.paused && k.expired != nil
	switch {
	case run && k.timer == nil:
		k.since = time.Now()
		k.timer = time.AfterFunc(k.left, k.expired)
	case !run && k.timer != nil:
		k.timer.Stop()
		k.timer = nil
		k.left = max(0, k.left-time.Since(k.since))
	}
}
