//go:build unix

package control

import (
	"context"
	"os/signal"
	"syscall"
)

// untilTerminated returns a context that ends with SIGTERM, too.
func untilTerminated(ctx context.Context) (context.Context, func()) {
	return signal.NotifyContext(ctx, syscall.SIGTERM)
}
