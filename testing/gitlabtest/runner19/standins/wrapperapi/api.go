// Package api stands in for the interface of the runner's wrapper command, which restarts and drains a runner for a
// client over gRPC. main.go does not offer that command; its types are here for the package that it is in.
package api

import (
	"context"
	"errors"

	"github.com/sirupsen/logrus"
)

// ErrProcessNotInitialized says that the wrapped runner has not been started.
var ErrProcessNotInitialized = errors.New("process not initialized")

// Status is the wrapped runner's.
type Status int

const (
	StatusUnknown Status = iota
	StatusRunning
	StatusInShutdown
	StatusStopped
)

func (s Status) String() string {
	return [...]string{"unknown", "running", "in_shutdown", "stopped"}[s]
}

// ShutdownCallbackDef says whom to call when a shutdown is complete.
type ShutdownCallbackDef interface {
	URL() string
	Method() string
}

// InitGracefulShutdownRequest asks for a shutdown.
type InitGracefulShutdownRequest interface {
	ShutdownCallbackDef() ShutdownCallbackDef
}

// ShutdownCallback calls.
type ShutdownCallback interface {
	Run(ctx context.Context)
}

func NewShutdownCallback(logrus.FieldLogger, ShutdownCallbackDef) ShutdownCallback { return nil }
