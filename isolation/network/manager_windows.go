package network

import (
	"context"
	"net/netip"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/network/hns"
)

// Manager makes and removes the networks of sandboxes: endpoints of one NAT network, which has Options.Bridge as its
// name, at both levels alike. Package hns does the work.
type Manager struct {
	networks      *hns.Networks
	hosts, search []string
}

// New checks the options. It changes nothing: the network is made by Prepare.
func New(options Options) (*Manager, error) {
	s, err := options.parse()
	if err != nil {
		return nil, err
	}
	opts := hns.Options{
		Name: s.bridge, Subnet: s.subnet, DNS: append([]netip.Addr{}, s.servers...), Logger: options.Logger,
	}
	if len(s.search) > 0 {
		opts.Suffix = s.search[0]
	}
	for _, e := range s.exceptions {
		opts.Allow = append(opts.Allow, hns.Destination{Prefix: e.Prefix, Port: e.Port})
	}
	return &Manager{networks: hns.Open(opts), hosts: s.hosts, search: s.search}, nil
}

// Prepare makes the network when it is missing.
func (m *Manager) Prepare(ctx context.Context) error { return m.networks.Prepare(ctx) }

// Attach makes a sandbox's endpoint in mode "nat", and nothing in mode "none".
func (m *Manager) Attach(ctx context.Context, id, mode string, form isolation.NetworkForm) (isolation.Network, error) {
	if form != isolation.NetworkEndpoint {
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %s is not a form of network on Windows", id, form)
	}
	network := isolation.Network{Hosts: m.hosts}
	switch mode {
	case ModeNone:
		return network, nil
	case ModeNAT:
	default:
		return isolation.Network{}, fault.Adminf("network %q is unknown: use %q or %q", mode, ModeNAT, ModeNone)
	}
	endpoint, err := m.networks.Attach(ctx, id)
	if err != nil {
		return isolation.Network{}, err
	}
	network.Endpoints, network.Search = []string{endpoint}, m.search
	return network, nil
}

// DetachesAfterSandbox says that Detach has to come when the sandbox is gone: the networking service may refuse to
// delete an endpoint that a container has.
func (*Manager) DetachesAfterSandbox() {}

// Detach removes what a sandbox has here; it succeeds when there is nothing.
func (m *Manager) Detach(ctx context.Context, id string) error { return m.networks.Detach(ctx, id) }

// Attached returns the ids of all sandboxes that have something here.
func (m *Manager) Attached(ctx context.Context) ([]string, error) { return m.networks.Attached(ctx) }

// Remove gives the network back, unless a sandbox is attached.
func (m *Manager) Remove(ctx context.Context) error { return m.networks.Remove(ctx) }

// ForwardBlockers has nothing to find on Windows.
func ForwardBlockers() ([]string, error) { return nil, nil }
