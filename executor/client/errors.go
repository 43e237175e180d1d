package client

import (
	"context"
	"errors"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/fault"
)

// wireError turns what a call returned into a classified error. ctx is the call's: its cause says why a call
// was given up here.
func (c *Client) wireError(ctx context.Context, err error) error {
	var classified *fault.Error
	switch {
	case errors.As(err, &classified):
		return err
	case ctx.Err() != nil:
		return fault.Systemf("the Airlock service at %s: %w", c.socket, context.Cause(ctx))
	case errors.Is(err, ttrpc.ErrClosed):
		return fault.WithRemedy(fault.Systemf("the Airlock service at %s closed the connection", c.socket),
			"it may have been restarted: try again; its own log has the reason")
	}
	s, ok := status.FromError(err)
	if !ok {
		return fault.Systemf("the Airlock service at %s: %w", c.socket, err)
	}
	return &fault.Error{Class: classOfCode(s.Code()), Err: errors.New(s.Message())}
}

// classOfCode is the class of a failure that arrived as a bare status. The executor's side of this table is
// plugin.ToStatus.
func classOfCode(code codes.Code) fault.Class {
	switch code {
	case codes.InvalidArgument:
		return fault.Author
	case codes.FailedPrecondition, codes.PermissionDenied:
		return fault.Admin
	default:
		return fault.System
	}
}

// resultError returns the error of a call that ended with a result, nil when it did what it was asked to.
func resultError(result *api.Result) error {
	if result.GetOk() {
		return nil
	}
	message := result.GetMessage()
	if message == "" {
		message = "the executor gave no reason for its failure"
	}
	class := fault.System
	switch result.GetFailureClass() {
	case api.FailureClass_FAILURE_CLASS_AUTHOR:
		class = fault.Author
	case api.FailureClass_FAILURE_CLASS_ADMIN:
		class = fault.Admin
	}
	return &fault.Error{Class: class, Err: errors.New(message)}
}
