package reaper

import (
	"maps"
	"time"
)

// The pause after a failure doubles from firstPause to longestPause.
const (
	firstPause   = 30 * time.Second
	longestPause = 15 * time.Minute
)

// backoff holds what failed lately, by owner, so that it is retried ever more rarely and reported once.
type backoff map[string]pausing

type pausing struct {
	at    string // the kind of step that failed
	pause time.Duration
	until time.Time
}

// failed notes a failure; it reports whether it is news, and how long to rest.
func (b backoff) failed(owner, at string, now time.Time) (first bool, pause time.Duration) {
	old, known := b[owner]
	pause = firstPause
	if known {
		pause = min(2*old.pause, longestPause)
	}
	b[owner] = pausing{at: at, pause: pause, until: now.Add(pause)}
	return !known || old.at != at, pause
}

func (b backoff) resting(owner string, now time.Time) bool { return now.Before(b[owner].until) }

func (b backoff) solved(owner string) { delete(b, owner) }

// retain drops the owners that are no longer there.
func (b backoff) retain(owners map[string]bool) {
	maps.DeleteFunc(b, func(owner string, _ pausing) bool { return !owners[owner] })
}
