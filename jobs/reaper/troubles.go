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

// troubles remembers what failed lately, by owner, so that it is retried ever more rarely and reported once.
type troubles map[string]trouble

type trouble struct {
	at    string // the kind of step that failed
	pause time.Duration
	until time.Time
}

// failed notes a failure; it tells whether it is news, and how long to rest.
func (t troubles) failed(owner, at string, now time.Time) (first bool, pause time.Duration) {
	old, known := t[owner]
	pause = firstPause
	if known {
		pause = min(2*old.pause, longestPause)
	}
	t[owner] = trouble{at: at, pause: pause, until: now.Add(pause)}
	return !known || old.at != at, pause
}

func (t troubles) resting(owner string, now time.Time) bool { return now.Before(t[owner].until) }

func (t troubles) solved(owner string) { delete(t, owner) }

// retain drops what is no trouble any more.
func (t troubles) retain(owners map[string]bool) {
	maps.DeleteFunc(t, func(owner string, _ trouble) bool { return !owners[owner] })
}
