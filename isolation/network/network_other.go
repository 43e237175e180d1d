//go:build !linux && !windows

package network

import (
	"context"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Manager has no implementation on this operating system: New never returns one.
type Manager struct{}

func unsupported() error {
	return fault.WithRemedy(fault.Adminf("sandbox networks on this operating system: %w", isolation.ErrUnsupported), "run the executor on Linux")
}

// New returns an error of class admin that wraps isolation.ErrUnsupported.
func New(options Options) (*Manager, error) {
	if _, err := options.parse(); err != nil {
		return nil, err
	}
	return nil, unsupported()
}

// Prepare fails as New does.
func (*Manager) Prepare(context.Context) error { return unsupported() }

// Attach fails as New does.
func (*Manager) Attach(context.Context, string, string, isolation.Level) (isolation.Network, error) {
	return isolation.Network{}, unsupported()
}

// Detach fails as New does.
func (*Manager) Detach(context.Context, string) error { return unsupported() }

// Attached fails as New does.
func (*Manager) Attached(context.Context) ([]string, error) { return nil, unsupported() }

// Remove fails as New does.
func (*Manager) Remove(context.Context) error { return unsupported() }

// ForwardBlockers fails as New does.
func ForwardBlockers() ([]string, error) { return nil, unsupported() }
