//go:build unix

package client

import (
	"context"
	"net"
)

// DefaultSocket is where the service listens unless its run_dir says otherwise.
const DefaultSocket = "/run/airlock/host/host.sock"

func connectTo(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}
