//go:build unix

package driver

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// dialPatience bounds the wait for a service that does not listen: it may be restarting, which takes about a second, and
// a job should not fail for that. A job that has waited once in an outage does not again.
const dialPatience = 5 * time.Second

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
