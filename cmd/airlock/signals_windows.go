package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/airlock-ci/airlock/api"
)

// forwardSignals returns what Windows has of signals: Ctrl-C and Ctrl-Break come as SIGINT, the end of the
// console as SIGTERM. The second one is sent as a kill; at the third, giveUp is called.
func forwardSignals(giveUp func()) (signals <-chan int, release func()) {
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	forwarded := make(chan int, 2)
	done := make(chan struct{})
	go func() {
		for endings := 1; ; endings++ {
			select {
			case <-done:
				return
			case s := <-caught:
				switch endings {
				case 1:
					forwarded <- int(s.(syscall.Signal))
				case 2:
					forwarded <- int(syscall.SIGKILL)
				default:
					giveUp()
					return
				}
			}
		}
	}()
	return forwarded, func() {
		signal.Stop(caught)
		close(done)
	}
}

// followSize returns nothing: Windows does not tell that a console's size changed.
func followSize(context.Context, int) <-chan *api.Resize { return nil }
