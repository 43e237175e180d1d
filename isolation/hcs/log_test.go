package hcs

import (
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// testLog is a test's log until the test ends: calls that hung may still have something to say then, which t.Log would
// not take.
type testLog struct {
	t     testing.TB
	mu    sync.Mutex
	ended bool
}

func newTestLog(t testing.TB) zerolog.Logger {
	w := &testLog{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended = true
	})
	return zerolog.New(w)
}

func (w *testLog) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.t.Log(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}
