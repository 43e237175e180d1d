//go:build unix

package driver

import (
	"context"
	"net"
)

// DefaultSocket is where the host listens unless its run_dir says otherwise.
const DefaultSocket = "/run/airlock/host/host.sock"

// What to do about a service that does not answer, and where to read more.
const (
	startService = "start it on this machine: systemctl start airlock"
	serviceLog   = "journalctl -u airlock"
)

func dial(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}
