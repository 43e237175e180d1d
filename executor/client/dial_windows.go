package client

import (
	"context"
	"net"

	"github.com/airlock-ci/airlock/internal/private"
)

// DefaultSocket is the pipe on which the service listens for administrators, unless its run_dir says otherwise.
const DefaultSocket = `\\.\pipe\airlock-host`

func connectTo(ctx context.Context, pipe string) (net.Conn, error) {
	return private.DialPipe(ctx, pipe)
}
