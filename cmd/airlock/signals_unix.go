//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/airlock-ci/airlock/api"
)

// forwardSignals returns the signals that this process gets from now on. The second one that asks for an end
// is sent as SIGKILL; at the third, giveUp is called, for a service that does not react at all.
func forwardSignals(giveUp func()) (signals <-chan int, release func()) {
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2)
	// A broken pipe must come as a write's error: the signal would end the process with the terminal raw.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)

	forwarded := make(chan int, 16)
	done := make(chan struct{})
	go func() {
		endings := 0
		for {
			var number syscall.Signal
			select {
			case <-done:
				return
			case s := <-caught:
				number = s.(syscall.Signal)
			}
			if number != syscall.SIGUSR1 && number != syscall.SIGUSR2 {
				endings++
			}
			switch endings {
			case 0, 1:
			case 2:
				number = syscall.SIGKILL
			default:
				giveUp()
				return
			}
			select {
			case forwarded <- int(number):
			default: // sixteen wait already
			}
		}
	}()
	return forwarded, func() {
		signal.Stop(caught)
		signal.Stop(broken)
		close(done)
	}
}

// followSize returns the terminal's new sizes until ctx ends.
func followSize(ctx context.Context, fd int) <-chan *api.Resize {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	sizes := make(chan *api.Resize)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			select {
			case <-ctx.Done():
				return
			case sizes <- terminalSize(fd):
			}
		}
	}()
	return sizes
}
