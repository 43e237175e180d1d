// Package client is how administrators' commands talk to the service: ttrpc over the host's unix socket.
//
// It owns the connection, the version check that opens it, the flow of one call's input and output, and the
// translation of what comes over the wire into classified errors (package fault). It never prints and keeps
// no state beyond the connection. Its caller is cmd/airlock.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/flow"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/internal/fault"
)

// answerTimeout bounds the first answer of a service. The executor may be starting or recovering behind the
// host, so it is generous; a service that is down refuses at once.
const answerTimeout = 30 * time.Second

// Client is one connection to the service. Its methods may be called concurrently, but what streams (Sandbox,
// Shell, PullImage, ImportImage, Events) ends the connection when it is done: dial again for the next call.
type Client struct {
	socket  string
	wire    *ttrpc.Client
	host    hostpb.HostClient
	paced   *flow.Conn
	version *api.VersionReply
}

// Dial connects to the service at socket, a path, and checks that it speaks this protocol. A service that
// does not answer, refuses this user or is of another version is an error of class admin, with its remedy.
func Dial(ctx context.Context, socket string) (*Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout,
		fmt.Errorf("no answer within %s", answerTimeout))
	defer cancel()
	conn, err := connectTo(ctx, socket)
	if err != nil {
		return nil, dialError(socket, err)
	}
	paced := flow.NewConn(conn)
	wire := ttrpc.NewClient(paced)
	c := &Client{socket: socket, wire: wire, host: hostpb.NewHostClient(wire), paced: paced}
	if err := c.checkVersion(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// dialError explains why nobody could be reached at socket.
func dialError(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fault.WithRemedy(fault.Adminf("this user may not use %s", socket),
			"run the command as root")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fault.WithRemedy(fault.Adminf("the Airlock service does not answer on %s", socket),
			"start it with: airlock service start; or, in the foreground, with: airlock serve")
	default:
		return fault.WithRemedy(fault.Adminf("the Airlock service does not answer on %s: %w", socket, err),
			"see airlock doctor")
	}
}

// checkVersion makes the first call of the connection.
func (c *Client) checkVersion(ctx context.Context) error {
	version, err := c.host.Version(ctx, &api.VersionRequest{})
	switch {
	case errors.Is(err, ttrpc.ErrClosed):
		return fault.WithRemedy(fault.Adminf("the Airlock service at %s closed the connection", c.socket),
			"only root and the members of the service's group may use it; its own log has the reason")
	case err != nil:
		return c.wireError(ctx, err)
	case version.GetProtocol() != api.ProtocolVersion:
		return fault.WithRemedy(fault.Adminf("the Airlock service at %s speaks protocol %d, this command speaks %d",
			c.socket, version.GetProtocol(), api.ProtocolVersion),
			"use the airlock command of the service's release, or restart the service after an upgrade")
	}
	c.version = version
	return nil
}

// Close ends the connection; the service then ends what this client had running.
func (c *Client) Close() {
	c.paced.Stop()
	_ = c.wire.Close()
}

// Version is what the service said about itself when the connection was made.
func (c *Client) Version() *api.VersionReply { return c.version }

// List returns all living sandboxes.
func (c *Client) List(ctx context.Context) ([]*api.SandboxInfo, error) {
	reply, err := c.host.List(ctx, &api.ListRequest{})
	if err != nil {
		return nil, c.wireError(ctx, err)
	}
	return reply.GetSandboxes(), nil
}

// Inspect describes one living sandbox, by job id or sandbox id.
func (c *Client) Inspect(ctx context.Context, job string) (*api.SandboxInfo, error) {
	info, err := c.host.Inspect(ctx, &api.InspectRequest{Job: job})
	if err != nil {
		return nil, c.wireError(ctx, err)
	}
	return info, nil
}

// Images lists the cache's images with the space they use.
func (c *Client) Images(ctx context.Context) (*api.ImagesReply, error) {
	reply, err := c.host.Images(ctx, &api.ImagesRequest{})
	if err != nil {
		return nil, c.wireError(ctx, err)
	}
	return reply, nil
}

// RemoveImage removes an image, by name or digest, and returns the bytes that this freed.
func (c *Client) RemoveImage(ctx context.Context, image string) (int64, error) {
	reply, err := c.host.RemoveImage(ctx, &api.RemoveImageRequest{Image: image})
	if err != nil {
		return 0, c.wireError(ctx, err)
	}
	return reply.GetFreedBytes(), nil
}

// PinImage keeps an image, by name or digest, from being evicted by pulls, or no longer.
func (c *Client) PinImage(ctx context.Context, image string, pinned bool) error {
	if _, err := c.host.PinImage(ctx, &api.PinImageRequest{Image: image, Pinned: pinned}); err != nil {
		return c.wireError(ctx, err)
	}
	return nil
}

// Reap returns what no living job owned and, unless dryRun, what became of it.
func (c *Client) Reap(ctx context.Context, dryRun bool) ([]*api.Leftover, error) {
	reply, err := c.host.Reap(ctx, &api.ReapRequest{DryRun: dryRun})
	if err != nil {
		return nil, c.wireError(ctx, err)
	}
	return reply.GetLeftovers(), nil
}
