package network

import (
	"net/netip"
	"os"

	"github.com/airlock-ci/airlock/internal/fault"
)

// nameservers returns what the next sandbox's resolv.conf says: the configured servers, else the host's as they are
// now, for a host may move between networks while the service runs.
func (m *Manager) nameservers() (resolver, error) {
	if len(m.settings.servers) > 0 {
		return resolver{servers: m.settings.servers, search: m.search}, nil
	}
	r := hostResolver(resolverFiles(), os.ReadFile)
	if len(r.servers) == 0 {
		return resolver{}, fault.WithRemedy(fault.Adminf("no name server in %v that a sandbox can reach (IPv4, not loopback)", resolverFiles()),
			"set dns = [\"ADDRESS\"] in the configuration")
	}
	if len(m.search) > 0 {
		r.search = m.search
	}
	return r, nil
}

// permit lets the sandboxes ask name servers. A server once permitted stays so: earlier sandboxes still ask it.
func (m *Manager) permit(servers []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var fresh []netip.Addr
	for _, server := range servers {
		if !m.asked[server] {
			fresh = append(fresh, server)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := m.addServers(fresh); err != nil {
		return fault.Systemf("letting sandboxes of %s ask %v: %w", m.bridge, fresh, err)
	}
	for _, server := range fresh {
		m.asked[server] = true
	}
	return nil
}
