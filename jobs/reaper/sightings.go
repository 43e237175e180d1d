package reaper

import (
	"sync"
	"time"
)

// runnerDirPrefix begins the name of every temporary directory that GitLab Runner's custom executor makes.
// Source: os.MkdirTemp("", "custom-executor") in the runner's executors/custom.
const runnerDirPrefix = "custom-executor"

// sightings are when recorded directories were first asked to be removed: their runners may still be about to call
// cleanup_exec in them. The zero value is ready.
type sightings struct {
	mu    sync.Mutex
	first map[string]time.Time
}

// of returns when the path was first asked for, which is now if it was not before.
func (s *sightings) of(path string, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first = map[string]time.Time{}
	}
	first, ok := s.first[path]
	if !ok {
		first = now
		s.first[path] = first
	}
	return first
}

// forget is for a path that is gone.
func (s *sightings) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.first, path)
}
