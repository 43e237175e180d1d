// Package waiting waits only so long for calls that cannot be interrupted: those of services that take no deadline. The
// Windows runtime and its network are its callers.
package waiting

import "time"

// Call makes a call and waits for it until limit has passed; answered says which came first. A call that was given up goes
// on in its own goroutine, and late, which may be nil, gets what came of it, so that nothing is left that nobody knows.
func Call[T any](limit time.Duration, call func() (T, error), late func(T, error)) (value T, answered bool, err error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := call()
		done <- outcome{value, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case o := <-done:
		return o.value, true, o.err
	case <-timer.C:
	}
	if late != nil {
		go func() {
			o := <-done
			late(o.value, o.err)
		}()
	}
	return value, false, nil
}
