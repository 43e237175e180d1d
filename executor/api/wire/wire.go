// Package wire says how a classified error (package fault) travels. A Call is answered with a Result, which has
// a field for the class. Every other method is answered with a status, whose code says it, on both transports
// alike:
//
//	author  InvalidArgument
//	admin   FailedPrecondition; PermissionDenied when the caller is not allowed to ask
//	system  Internal; any other code
//
// The driver, the commands' client, the host and the executor use it: no other place knows the table.
package wire

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// ToStatus returns err as a status error; nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	switch fault.ClassOf(err) {
	case fault.Author:
		code = codes.InvalidArgument
	case fault.Admin:
		code = codes.FailedPrecondition
	}
	return status.Error(code, err.Error())
}

// FromStatus returns the classified error that a status error stands for; nil stays nil.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	class := fault.System
	switch s.Code() {
	case codes.InvalidArgument:
		class = fault.Author
	case codes.FailedPrecondition, codes.PermissionDenied:
		class = fault.Admin
	}
	return &fault.Error{Class: class, Err: errors.New(s.Message())}
}

// FailureResult returns the result of a call that failed with err.
func FailureResult(err error) *api.Result {
	class := api.FailureClass_FAILURE_CLASS_SYSTEM
	switch fault.ClassOf(err) {
	case fault.Author:
		class = api.FailureClass_FAILURE_CLASS_AUTHOR
	case fault.Admin:
		class = api.FailureClass_FAILURE_CLASS_ADMIN
	}
	return &api.Result{FailureClass: class, Message: err.Error()}
}

// ResultError returns the classified error that a result stands for, nil when it is ok.
func ResultError(r *api.Result) error {
	if r.GetOk() {
		return nil
	}
	class := fault.System
	switch r.GetFailureClass() {
	case api.FailureClass_FAILURE_CLASS_AUTHOR:
		class = fault.Author
	case api.FailureClass_FAILURE_CLASS_ADMIN:
		class = fault.Admin
	}
	message := r.GetMessage()
	if message == "" {
		message = "the executor gave no reason for its failure"
	}
	return &fault.Error{Class: class, Err: errors.New(message)}
}
