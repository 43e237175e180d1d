// Package client is how administrators' commands reach the executor: a connection of package api, with an error that
// says what to do when there is none. Its callers are cmd/airlock and doctor.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// answerTimeout bounds the first answer of a service. The executor may be starting or recovering, while callers wait
	// in its socket's queue; a service that is down refuses at once.
	answerTimeout = 30 * time.Second
	// retryInterval is the pause before another try at an executor that is about to end.
	retryInterval = 100 * time.Millisecond
)

// Dial connects to the service at socket and checks that it speaks this protocol. A service that does not answer, refuses
// this user or is of another version is an error of class admin, with its remedy.
func Dial(ctx context.Context, socket string) (*api.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("no answer within %s", answerTimeout))
	defer cancel()
	for {
		c, err := api.Dial(ctx, socket)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, api.ErrLost) && !errors.Is(err, api.ErrNotBegun) && !errors.Is(err, syscall.EAGAIN) || ctx.Err() != nil {
			return nil, explain(ctx, socket, err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// explain says why nobody could be reached at socket.
func explain(ctx context.Context, socket string, err error) error {
	var other *api.VersionError
	var classified *fault.Error
	switch {
	case errors.As(err, &other):
		return fault.WithRemedy(fault.Adminf("the Airlock service at %s speaks protocol %d, this command speaks %d",
			socket, other.Theirs, api.ProtocolVersion),
			"use the airlock command of the service's release, or restart the service after an upgrade")
	case errors.Is(err, fs.ErrPermission):
		return fault.WithRemedy(fault.Adminf("this user may not use %s", socket), "run the command as root")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fault.WithRemedy(fault.Adminf("the Airlock service does not answer on %s", socket),
			"start it with: airlock service start; or, in the foreground, with: airlock serve")
	case ctx.Err() != nil && context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	case errors.As(err, &classified):
		return err
	}
	return fault.WithRemedy(fault.Adminf("the Airlock service does not answer on %s: %w", socket, err), "see airlock doctor")
}
