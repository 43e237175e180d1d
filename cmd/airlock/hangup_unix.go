//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// hangUps delivers SIGHUP: the request to reload the configuration.
func hangUps() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals
}
