package supervisor

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
)

// connection implements the host's service for one caller. Everything is passed on to the executor.
type connection struct {
	door     *door
	entrance *entrance // by which the caller came
	conn     *pacedConn
	peer     peer
	calling  atomic.Bool // a call is in flight
	called   bool        // there was one; under door.mu
}

// Version answers for the executor behind the host.
func (c *connection) Version(ctx context.Context, _ *api.VersionRequest) (*api.VersionReply, error) {
	if err := c.peer.require(rightsJobs, "Airlock's service"); err != nil {
		return nil, err
	}
	e, release, err := c.door.supervisor.acquire(ctx)
	if errors.Is(err, errStopping) {
		return nil, status.Error(codes.Unavailable, err.Error()) // the next host answers
	}
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	defer release()
	return e.version, nil
}

// forward passes one request of an administrator's on and its answer back.
func forward[Q, R any](ctx context.Context, c *connection, what string, request Q,
	method func(executorpb.ExecutorClient, context.Context, Q) (R, error),
) (R, error) {
	var none R
	if err := c.peer.require(rightsAll, what); err != nil {
		return none, err
	}
	e, release, err := c.door.supervisor.acquire(ctx)
	if err != nil {
		return none, wire.ToStatus(err)
	}
	defer release()
	reply, err := method(e.rpc, ctx, request)
	if err != nil {
		return none, c.explainStatus(ctx, e, err)
	}
	return reply, nil
}

// explainStatus says in plain words that the executor was lost; everything else is its own answer.
func (c *connection) explainStatus(ctx context.Context, e *executor, err error) error {
	if ctx.Err() == nil && isLost(err) {
		c.door.supervisor.suspect(e)
		return wire.ToStatus(lostExecutor(e, err))
	}
	return err
}

func (c *connection) List(ctx context.Context, req *api.ListRequest) (*api.ListReply, error) {
	return forward(ctx, c, "listing sandboxes", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.ListRequest) (*api.ListReply, error) {
			return rpc.List(ctx, req)
		})
}

func (c *connection) Inspect(ctx context.Context, req *api.InspectRequest) (*api.SandboxInfo, error) {
	return forward(ctx, c, "inspecting a sandbox", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.InspectRequest) (*api.SandboxInfo, error) {
			return rpc.Inspect(ctx, req)
		})
}

func (c *connection) Images(ctx context.Context, req *api.ImagesRequest) (*api.ImagesReply, error) {
	return forward(ctx, c, "listing images", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.ImagesRequest) (*api.ImagesReply, error) {
			return rpc.Images(ctx, req)
		})
}

func (c *connection) RemoveImage(ctx context.Context, req *api.RemoveImageRequest) (*api.RemoveImageReply, error) {
	return forward(ctx, c, "removing an image", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.RemoveImageRequest,
		) (*api.RemoveImageReply, error) {
			return rpc.RemoveImage(ctx, req)
		})
}

func (c *connection) PinImage(ctx context.Context, req *api.PinImageRequest) (*api.PinImageReply, error) {
	return forward(ctx, c, "pinning an image", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.PinImageRequest) (*api.PinImageReply, error) {
			return rpc.PinImage(ctx, req)
		})
}

func (c *connection) Reap(ctx context.Context, req *api.ReapRequest) (*api.ReapReply, error) {
	return forward(ctx, c, "reaping", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.ReapRequest) (*api.ReapReply, error) {
			return rpc.Reap(ctx, req)
		})
}

func (c *connection) Reload(ctx context.Context, req *api.ReloadRequest) (*api.ReloadReply, error) {
	c.door.classes.refresh()
	return forward(ctx, c, "reloading the configuration", req,
		func(rpc executorpb.ExecutorClient, ctx context.Context, req *api.ReloadRequest) (*api.ReloadReply, error) {
			return rpc.Reload(ctx, req)
		})
}

// Events passes log lines on until the caller goes, the executor ends or the host stops.
func (c *connection) Events(ctx context.Context, req *api.EventsRequest, caller hostpb.Host_EventsServer) error {
	if err := c.peer.require(rightsAll, "reading the log"); err != nil {
		return err
	}
	e, release, err := c.door.supervisor.acquire(ctx)
	if err != nil {
		return wire.ToStatus(err)
	}
	release() // a reader of the log keeps no executor from being replaced
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errCallOver)
	defer context.AfterFunc(c.door.ctx, func() { cancel(errStopping) })()

	stream, err := e.rpc.Events(ctx, req)
	if err != nil {
		return c.explainStatus(ctx, e, err)
	}
	for {
		event, err := stream.Recv()
		if isEnd(err) {
			return nil
		}
		if err != nil {
			if errors.Is(context.Cause(ctx), errStopping) {
				return status.Error(codes.Unavailable, errStopping.Error())
			}
			return c.explainStatus(ctx, e, err)
		}
		if err := caller.Send(event); err != nil {
			return err
		}
	}
}
