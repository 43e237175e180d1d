package plugin

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// untilTerminated takes SIGTERM, which Go makes of the news that any user logs off, and does nothing about it: an event
// asks this process to end.
func untilTerminated(ctx context.Context) (context.Context, func()) {
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, syscall.SIGTERM)
	return ctx, func() { signal.Stop(unheard) }
}
