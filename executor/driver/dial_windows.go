package driver

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

// DefaultSocket is the pipe on which the host listens.
const DefaultSocket = `\\.\pipe\airlock-host`

// What to do about a service that does not answer, and where to read more.
const (
	startService = "start it on this machine: airlock service start"
	serviceLog   = "the Windows event log, source airlock"
)

func dial(ctx context.Context, pipe string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, pipe)
}
