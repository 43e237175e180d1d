//go:build !windows

package doctor

import "runtime"

// programs are those beside airlock.
var programs = []string{"airlock-executor", "airlock-driver", "airlock-agent"}

// platform is for details: "linux/amd64".
func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
