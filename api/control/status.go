package control

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/internal/fault"
)

// ToStatus returns a classified error as the status of a gRPC call; nil stays nil. The codes are InvalidArgument
// (author), FailedPrecondition (admin) and Internal (system).
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

// FromStatus returns the classified error that a status stands for; nil stays nil. Any other code is the system's.
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
