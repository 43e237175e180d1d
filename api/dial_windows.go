package api

import (
	"context"
	"net"

	"github.com/airlock-ci/airlock/internal/private"
)

// The pipes of an executor unless the configuration's run_dir says otherwise: of drivers, and of administrators. Which
// one a caller can open says what it may do.
const (
	DriverSocket        = AdministratorSocket + `-jobs`
	AdministratorSocket = `\\.\pipe\airlock-host`
)

func dial(ctx context.Context, pipe string) (net.Conn, error) { return private.DialPipe(ctx, pipe) }
