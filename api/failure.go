package api

import (
	"errors"

	"github.com/airlock-ci/airlock/internal/fault"
)

var (
	// ErrLost says that the connection broke before the result came. What ran is ended; whether a call that was just made
	// had begun is not known.
	ErrLost = errors.New("the connection to the executor broke")
	// ErrNotBegun says that the executor refused a call before it did anything: it may be made again.
	ErrNotBegun = errors.New("the call was not begun")
	// ErrCallerGone is the cause with which the context of a call ends whose caller has gone.
	ErrCallerGone = errors.New("the caller has gone")
)

// failure is a classified error on the wire.
type failure struct {
	// Class is "author", "admin" or "system": whose failure it is. What is unknown is the system's.
	Class    string `json:"class"`
	Message  string `json:"message"`
	NotBegun bool   `json:"not_begun,omitempty"`
}

func newFailure(err error) *failure {
	return &failure{Class: fault.ClassOf(err).String(), Message: err.Error(), NotBegun: errors.Is(err, ErrNotBegun)}
}

// err returns the classified error that a failure stands for.
func (f *failure) err() error {
	class := fault.System
	switch f.Class {
	case fault.Author.String():
		class = fault.Author
	case fault.Admin.String():
		class = fault.Admin
	}
	message := errors.New(f.Message)
	if f.Message == "" {
		message = errors.New("the executor gave no reason for its failure")
	}
	if f.NotBegun {
		return &fault.Error{Class: class, Err: notBegun{message}}
	}
	return &fault.Error{Class: class, Err: message}
}

// notBegun is an error that is ErrNotBegun and keeps its own words.
type notBegun struct{ error }

// NotBegun marks an error as one after which the call may be made again.
func NotBegun(err error) error { return &fault.Error{Class: fault.ClassOf(err), Err: notBegun{err}} }

func (e notBegun) Is(target error) bool { return target == ErrNotBegun }
func (e notBegun) Unwrap() error        { return e.error }

// Author returns a failure of the job itself. An executor returns it from a Handler, as Administrator's; every other
// error is the system's.
func Author(err error) error { return &fault.Error{Class: fault.Author, Err: err} }

// Administrator returns a refusal, or a mistake of the administrator's.
func Administrator(err error) error { return &fault.Error{Class: fault.Admin, Err: err} }
