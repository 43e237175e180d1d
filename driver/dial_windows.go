package driver

import (
	"context"
	"errors"
	"io/fs"
	"net"

	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/internal/private"
)

// DefaultSocket is the pipe on which the host listens for drivers.
const DefaultSocket = `\\.\pipe\airlock-host-jobs`

// What to do about a service that does not answer, and where to read more.
const (
	startService = "start it on this machine: airlock service start"
	serviceLog   = `the service's log, %ProgramData%\Airlock\log\airlock.log`
	joinGroup    = "let gitlab-runner run as a service of the system's or an administrator's, or put its user into the local group that the key group names"
)

// DefaultShell is in every image but the smallest. GitLab Runner's own default is pwsh, which few images have.
const DefaultShell = "powershell"

var shells = []string{DefaultShell, "pwsh", "cmd"}

func dial(ctx context.Context, pipe string) (net.Conn, error) {
	return private.DialPipe(ctx, pipe)
}

func runnersUser() string { return "user" }

// ownFile is always true: a service's temporary directory is closed to other users.
func ownFile(fs.FileInfo) bool { return true }

// pipeBroken tells that the other end of a pipe has gone.
func pipeBroken(err error) bool {
	return errors.Is(err, windows.ERROR_BROKEN_PIPE) || errors.Is(err, windows.ERROR_NO_DATA) ||
		errors.Is(err, windows.ERROR_PIPE_NOT_CONNECTED) || errors.Is(err, net.ErrClosed)
}
