// Package gracefulexitcmd stands in for the commands of the runner's built-in steps, which nothing calls. They are asked
// to end, and killed after a delay.
package gracefulexitcmd

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// New returns a command that gets SIGTERM when ctx ends, and SIGKILL after the delay.
func New(ctx context.Context, delay time.Duration, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = delay
	return cmd
}
