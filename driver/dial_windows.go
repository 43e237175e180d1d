package driver

import (
	"io/fs"
	"time"
)

// dialPatience bounds the wait for a service that does not listen. A pipe ends with its executor, so it is as long as an
// executor takes to come back. A job that has waited once in an outage does not again.
const dialPatience = 20 * time.Second

// What to do about a service that does not answer, and where to read more.
const (
	startService = "start it on this machine: airlock service start"
	serviceLog   = `the service's log, %ProgramData%\Airlock\log\airlock.log`
	joinGroup    = "let gitlab-runner run as a service of the system's or an administrator's, or put its user into the local group that the key group names"
)

// DefaultShell is in every image but the smallest. GitLab Runner's own default is pwsh, which few images have.
const DefaultShell = "powershell"

var shells = []string{DefaultShell, "pwsh", "cmd"}

func runnersUser() string { return "user" }

// ownFile is always true: a service's temporary directory is closed to other users.
func ownFile(fs.FileInfo) bool { return true }
