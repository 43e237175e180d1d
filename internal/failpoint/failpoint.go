// Package failpoint ends or fails a process at a named step, so that tests can prove what the real binaries
// leave behind when they are killed there. Points are switched on by the environment variable
// AIRLOCK_FAILPOINT, which only who starts the service can set; the host hands it on to the executor.
//
// Syntax: "name=action", several separated by commas. Actions: "kill" (SIGKILL to the own process), "error"
// (Hit returns an error), "sleep:DURATION", and "kill-once:FILE", which kills unless FILE exists and makes it
// before: processes that are started again with the same environment go on then. This package is a leaf.
package failpoint

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Variable is the environment variable that switches points on.
const Variable = "AIRLOCK_FAILPOINT"

var active = sync.OnceValue(func() map[string]string {
	points := map[string]string{}
	for _, entry := range strings.Split(os.Getenv(Variable), ",") {
		if name, action, ok := strings.Cut(entry, "="); ok {
			points[name] = action
		}
	}
	return points
})

// Hit does what the environment asks for at the point name: nothing, ordinarily.
func Hit(name string) error {
	action, ok := active()[name]
	if !ok {
		return nil
	}
	switch {
	case action == "kill":
		kill()
	case strings.HasPrefix(action, "kill-once:"):
		marker, err := os.OpenFile(strings.TrimPrefix(action, "kill-once:"), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = marker.Close()
			kill()
		}
	case action == "error":
		return fmt.Errorf("failpoint %s", name)
	case strings.HasPrefix(action, "sleep:"):
		if d, err := time.ParseDuration(strings.TrimPrefix(action, "sleep:")); err == nil {
			time.Sleep(d)
		}
	}
	return nil
}

// kill ends the process as a crash would: nothing deferred runs. It asks again, from a thread of its own each time: Wine
// has been seen to leave a process that ended itself hanging in the middle.
func kill() {
	for {
		go func() {
			if self, err := os.FindProcess(os.Getpid()); err == nil {
				_ = self.Kill()
			}
		}()
		time.Sleep(100 * time.Millisecond) // the signal is on its way
	}
}
