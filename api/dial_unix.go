//go:build unix

package api

import (
	"context"
	"net"
)

// Where an executor is reached unless the configuration's run_dir says otherwise: by drivers, and by administrators.
const (
	DriverSocket        = "/run/airlock/host/host.sock"
	AdministratorSocket = DriverSocket
)

func dial(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}
