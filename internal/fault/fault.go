// Package fault holds the three classes of failure that Airlock tells apart: the author's, the
// administrator's and the system's. Every error that crosses a package boundary towards a job or an
// administrator carries one; an error without a class counts as the system's, because a fault nobody
// foresaw must not be blamed on an author and may be worth a retry.
//
// The class decides the exit code a driver ends with (see ExitCode) and the wording of the job log.
// This package is a leaf: everything may import it, it imports nothing of Airlock.
package fault

import (
	"errors"
	"fmt"
)

// Class says whose failure an error is.
type Class int

// The closed set of classes. The zero value is System: what nobody classified is the system's.
const (
	// System is a fault of Airlock or its host; a retry may help.
	System Class = iota
	// Author is a fault in the job itself: an image that does not exist, a script that fails.
	Author
	// Admin is a refusal or mistake of the administrator's: a policy refusal, a broken configuration.
	Admin
)

// String returns "system", "author" or "admin".
func (c Class) String() string {
	switch c {
	case Author:
		return "author"
	case Admin:
		return "admin"
	default:
		return "system"
	}
}

// Error is a classified error. Remedy, when not empty, is one sentence that says what to do.
type Error struct {
	Class  Class
	Err    error
	Remedy string
}

// Error returns the message, followed by the remedy when there is one.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Remedy + ")"
}

// Unwrap returns the classified error's cause.
func (e *Error) Unwrap() error { return e.Err }

// Authorf returns an author's failure; the format is fmt.Errorf's, %w included.
func Authorf(format string, args ...any) error {
	return &Error{Class: Author, Err: fmt.Errorf(format, args...)}
}

// Adminf returns an administrator's failure; the format is fmt.Errorf's, %w included.
func Adminf(format string, args ...any) error {
	return &Error{Class: Admin, Err: fmt.Errorf(format, args...)}
}

// Systemf returns a system failure; the format is fmt.Errorf's, %w included.
func Systemf(format string, args ...any) error {
	return &Error{Class: System, Err: fmt.Errorf(format, args...)}
}

// WithRemedy returns err, its class kept, with a sentence that says what to do about it.
func WithRemedy(err error, remedy string) error {
	if err == nil {
		return nil
	}
	return &Error{Class: ClassOf(err), Err: err, Remedy: remedy}
}

// ClassOf returns the class of the outermost classified error in err's chain; System when there is none.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return System
}

// Exit codes of GitLab Runner's custom executor contract: the runner passes the two values to every call as
// BUILD_FAILURE_EXIT_CODE and SYSTEM_FAILURE_EXIT_CODE. Any other status is an "unknown failure" to it.
const (
	ExitOK            = 0
	ExitBuildFailure  = 1
	ExitSystemFailure = 2
)

// ExitCode maps an error to the exit code of a driver call. A build failure is final; a system failure in
// prepare is retried by the runner, so an administrator's refusal, which a retry cannot change, is a build
// failure too.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if ClassOf(err) == System {
		return ExitSystemFailure
	}
	return ExitBuildFailure
}
