package client

import (
	"context"
	"errors"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/fault"
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
	if _, ok := status.FromError(err); !ok {
		return fault.Systemf("the Airlock service at %s: %w", c.socket, err)
	}
	return wire.FromStatus(err)
}
