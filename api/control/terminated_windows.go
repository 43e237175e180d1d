package control

import (
	"context"
	"errors"

	"golang.org/x/sys/windows"
)

var setConsoleCtrlHandler = windows.NewLazySystemDLL("kernel32.dll").NewProc("SetConsoleCtrlHandler")

// untilTerminated returns a context that ends when this host is shut down, and keeps the process from ending because some
// user logs off, which Windows tells those that it runs beside a service. Go makes SIGTERM of both, and then holds Windows
// up for as long as it lets it. An event asks this process to end otherwise.
func untilTerminated(ctx context.Context) (context.Context, func()) {
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan struct{})
	// Go has registered its own before: the last one is asked first, and 1 says that no other need be.
	handler := windows.NewCallback(func(event uintptr) uintptr {
		switch event {
		case windows.CTRL_LOGOFF_EVENT:
			return 1
		case windows.CTRL_SHUTDOWN_EVENT:
			stop(errors.New("this host is shut down"))
			<-served
			return 1
		default:
			return 0
		}
	})
	_, _, _ = setConsoleCtrlHandler.Call(handler, 1) // without it, Go's does what it does
	return ctx, func() {
		stop(nil)
		close(served)
	}
}
