//go:build unix

package driver

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// DefaultSocket is where the host listens unless its run_dir says otherwise.
const DefaultSocket = "/run/airlock/host/host.sock"

// What to do about a service that does not answer, and where to read more.
const (
	startService = "start it on this machine: systemctl start airlock"
	serviceLog   = "journalctl -u airlock"
	joinGroup    = "add the user that runs gitlab-runner to the group that the key group of /etc/airlock/config.toml names, then restart gitlab-runner"
)

// DefaultShell is the kind of scripts that every root here can run.
const DefaultShell = "bash"

var shells = []string{DefaultShell}

func runnersUser() string { return fmt.Sprintf("user %d", os.Getuid()) }

// ownFile reports whether a file is this user's.
func ownFile(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}

// pipeBroken tells errors of pipes that have no other name; there are none here.
func pipeBroken(error) bool { return false }

func dial(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}
