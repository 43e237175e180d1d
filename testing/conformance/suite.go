package conformance

import (
	"runtime"
	"testing"
)

// subtest is one promise of a suite.
type subtest struct {
	name string
	run  func(t testing.TB)
}

// attempt runs a subtest. One that deviations names must fail, which is reported and does not fail the suite:
// a deviation that passes, or that no subtest has the name of, has to be struck off the list.
func (s subtest) attempt(t testing.TB, deviations map[string]string) {
	t.Helper()
	reason, deviates := deviations[s.name]
	if !deviates {
		s.run(t)
		return
	}
	if trial := try(t, s.run); trial.failed {
		t.Logf("known deviation %q: %s", s.name, reason)
	} else {
		t.Errorf("the known deviation %q (%s) passes: strike it off the list", s.name, reason)
	}
}

// checkDeviations fails t for every deviation that none of the subtests has the name of.
func checkDeviations(t testing.TB, subtests []subtest, deviations map[string]string) {
	t.Helper()
	known := map[string]bool{}
	for _, s := range subtests {
		known[s.name] = true
	}
	for name := range deviations {
		if !known[name] {
			t.Errorf("the suite has no subtest of the known deviation's name %q", name)
		}
	}
}

// trial is a testing.TB whose failure is an answer.
type trial struct {
	testing.TB
	failed   bool
	cleanups []func()
}

// try runs f and its cleanups.
func try(t testing.TB, f func(testing.TB)) *trial {
	tr := &trial{TB: t}
	tr.guard(func() { f(tr) })
	for len(tr.cleanups) > 0 {
		last := tr.cleanups[len(tr.cleanups)-1]
		tr.cleanups = tr.cleanups[:len(tr.cleanups)-1]
		tr.guard(last)
	}
	return tr
}

// guard runs f in a goroutine of its own, which FailNow may end.
func (tr *trial) guard(f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	<-ended
}

// Cleanup implements testing.TB.
func (tr *trial) Cleanup(f func()) { tr.cleanups = append(tr.cleanups, f) }

// Failed implements testing.TB.
func (tr *trial) Failed() bool { return tr.failed }

// Fail implements testing.TB.
func (tr *trial) Fail() { tr.failed = true }

// FailNow implements testing.TB.
func (tr *trial) FailNow() {
	tr.failed = true
	runtime.Goexit()
}

// Error implements testing.TB.
func (tr *trial) Error(...any) { tr.failed = true }

// Errorf implements testing.TB.
func (tr *trial) Errorf(string, ...any) { tr.failed = true }

// Fatal implements testing.TB.
func (tr *trial) Fatal(...any) { tr.FailNow() }

// Fatalf implements testing.TB.
func (tr *trial) Fatalf(string, ...any) { tr.FailNow() }
