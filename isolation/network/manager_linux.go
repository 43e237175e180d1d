package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Manager makes and removes the networks of sandboxes on one bridge. Its methods may be called concurrently.
type Manager struct {
	settings
	log zerolog.Logger

	// host is held for writing while the bridge and the tables are made or removed, and for reading while a
	// sandbox is put on the bridge.
	host sync.RWMutex
	// bridgeIndex is the bridge's and mtu its ports'; 0 until they are prepared.
	bridgeIndex, mtu int

	netfilter netfilter

	mu       sync.Mutex
	attached map[string]*attachment
	pool     *addresses
	// foreign are the addresses of ports that other processes left, by id.
	foreign map[string]netip.Addr
	// asked are all name servers that sandboxes were ever given, or will be: the rules let them through.
	asked map[netip.Addr]bool
}

// attachment is what one sandbox has. Its fields belong to who holds the lock.
type attachment struct {
	id    string
	lock  chan struct{} // holds one token while Attach or Detach works on it
	gone  bool          // Detach has finished: the map no longer has it
	netns *os.File      // form NetworkNamespace
	tap   *os.File      // form NetworkTap
	addr  netip.Addr    // invalid in mode none
}

// New checks the options and that the subnet is nobody else's on this host. It changes nothing: the bridge and
// the tables are made by Prepare. Errors in the options are of class admin and name key and entry.
func New(options Options) (*Manager, error) {
	s, err := options.parse()
	if err != nil {
		return nil, err
	}
	if err := checkOverlap(s); err != nil {
		return nil, err
	}
	m := &Manager{
		settings: s,
		log:      options.Logger.With().Str("bridge", s.bridge).Logger(),
		attached: map[string]*attachment{},
		pool:     newAddresses(s.subnet),
		foreign:  map[string]netip.Addr{},
		asked:    map[netip.Addr]bool{},
	}
	for _, server := range s.servers {
		m.asked[server] = true
	}
	return m, nil
}

// Attach makes a sandbox's network: mode "nat" or "none". A namespace lives until Detach or the end of this process and of
// all processes in it. A tap device lives until Detach or until this process and the virtual machine's have ended; in mode
// none there is no device at all. When Attach fails, nothing is left. The context is looked at before each step; a step takes a few
// milliseconds.
//
// Errors: class admin for an unknown mode, a missing name server or a host that lacks what NAT needs; class system
// when the subnet is full.
func (m *Manager) Attach(ctx context.Context, id, mode string, form isolation.NetworkForm) (network isolation.Network, err error) {
	switch {
	case !isolation.ValidID(id):
		return isolation.Network{}, fault.Systemf("attaching sandbox %q: not a sandbox id", id)
	case form != isolation.NetworkNamespace && form != isolation.NetworkTap:
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %s is not a form of network on Linux", id, form)
	case mode != ModeNAT && mode != ModeNone:
		return isolation.Network{}, fault.Adminf("network %q is unknown: use %q or %q", mode, ModeNAT, ModeNone)
	}

	a, err := m.begin(id)
	if err != nil {
		return isolation.Network{}, err
	}
	defer a.release()
	undo := cleanup.New(ctx)
	defer undo.Run(&err)
	undo.Push(func() error { return m.remove(a) }) // what stays is in the map: Attached names it, and Detach tries again
	if network, err = m.attach(ctx, a, mode, form); err != nil {
		return isolation.Network{}, err
	}
	undo.Release()
	return network, nil
}

func (m *Manager) attach(ctx context.Context, a *attachment, mode string, form isolation.NetworkForm) (isolation.Network, error) {
	if err := ctx.Err(); err != nil {
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %w", a.id, context.Cause(ctx))
	}
	if mode == ModeNAT {
		return m.attachNAT(ctx, a, form)
	}
	if form == isolation.NetworkTap {
		return isolation.Network{Hosts: m.hosts}, nil
	}
	ns, err := newNamespace()
	if err != nil {
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %w", a.id, err)
	}
	ns.links.Close()
	a.netns = ns.file
	return isolation.Network{NetNS: ns.path(), Hosts: m.hosts}, nil
}

// attachNAT puts a sandbox on the bridge. The order matters: the rules know the port's name before the port
// exists, and the port is up only when it is isolated.
func (m *Manager) attachNAT(ctx context.Context, a *attachment, form isolation.NetworkForm) (isolation.Network, error) {
	dns, err := m.nameservers()
	if err != nil {
		return isolation.Network{}, err
	}
	if err := m.Prepare(ctx); err != nil { // before the lease: it finds out which addresses are in use
		return isolation.Network{}, err
	}
	if err := m.lease(a); err != nil {
		return isolation.Network{}, err
	}
	if err := m.admit(ctx, a, dns.servers); err != nil {
		return isolation.Network{}, err
	}
	if err := ctx.Err(); err != nil {
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %w", a.id, context.Cause(ctx))
	}
	network := isolation.Network{
		MAC:     macOf(a.addr).String(),
		Address: netip.PrefixFrom(a.addr, m.subnet.Bits()).String(),
		Gateway: m.gateway.String(),
		Search:  dns.search,
		Options: dns.options,
		Hosts:   m.hosts,
	}
	for _, server := range dns.servers {
		network.Nameservers = append(network.Nameservers, server.String())
	}
	if form == isolation.NetworkTap {
		err = m.plugTap(ctx, a, &network)
	} else {
		err = m.plugVeth(ctx, a, &network)
	}
	if err != nil {
		return isolation.Network{}, fault.Systemf("attaching sandbox %s: %w", a.id, err)
	}
	return network, nil
}

// admit enters a sandbox and its name servers into the rules, made again if necessary.
func (m *Manager) admit(ctx context.Context, a *attachment, servers []netip.Addr) error {
	err := m.permit(servers)
	if err == nil {
		err = m.addSource(a.id, a.addr)
	}
	if errors.Is(err, unix.ENOENT) { // someone flushed the rules; making them again enters this sandbox too
		if err := m.repair(ctx); err != nil {
			return err
		}
		err = m.permit(servers)
	}
	if err != nil {
		return fault.Systemf("entering sandbox %s into the rules of %s: %w", a.id, m.bridge, err)
	}
	return nil
}

// Detach removes all that a sandbox has, by id alone and also when another process attached it. It returns when
// the link is gone (about 20 ms: the kernel waits for packets in flight) and succeeds when there was nothing.
func (m *Manager) Detach(ctx context.Context, id string) error {
	m.mu.Lock()
	a := m.attached[id]
	m.mu.Unlock()
	if a == nil {
		return m.removeForeign(id)
	}
	select {
	case a.lock <- struct{}{}:
	case <-ctx.Done():
		return fault.Systemf("detaching sandbox %s: %w", id, context.Cause(ctx))
	}
	defer a.release()
	if a.gone {
		return nil
	}
	return m.remove(a)
}

// Attached returns, in no order, the ids of sandboxes that have something here: a namespace held by this process, a
// port of the bridge or an entry in the rules, whoever made it. It also makes the rules again if someone
// flushed them.
func (m *Manager) Attached(ctx context.Context) ([]string, error) {
	if err := m.repair(ctx); err != nil {
		return nil, err
	}
	ports, err := m.ports()
	if err != nil {
		return nil, fault.Systemf("listing the ports of %s: %w", m.bridge, err)
	}
	sources, err := m.sources()
	if err != nil {
		return nil, fault.Systemf("listing the rules of %s: %w", m.bridge, err)
	}
	ids := map[string]bool{}
	for _, p := range ports {
		ids[p.id] = true
	}
	for _, s := range sources {
		ids[s.Comment] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteForeign(ports)
	for id := range m.attached {
		ids[id] = true
	}
	list := make([]string, 0, len(ids))
	for id := range ids {
		list = append(list, id)
	}
	return list, nil
}

// begin enters an attachment, locked, into the map.
func (m *Manager) begin(id string) (*attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached[id] != nil || m.foreign[id].IsValid() {
		return nil, fault.WithRemedy(fault.Systemf("sandbox %s has a network already", id), "detach it first")
	}
	a := &attachment{id: id, lock: make(chan struct{}, 1)}
	a.lock <- struct{}{}
	m.attached[id] = a
	return a, nil
}

func (a *attachment) release() { <-a.lock }

// lease gives an attachment its address.
func (m *Manager) lease(a *attachment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	addr, ok := m.pool.take()
	if !ok {
		return fault.WithRemedy(fault.Systemf("attaching sandbox %s: all %d addresses of %s are in use", a.id, len(m.pool.taken)+len(m.pool.others), m.subnet),
			"run fewer jobs at a time or set a larger [network] subnet")
	}
	a.addr = addr
	return nil
}

// noteForeign brings up to date which addresses ports of other processes hold.
func (m *Manager) noteForeign(ports []port) {
	clear(m.foreign)
	m.pool.others = map[netip.Addr]bool{}
	for _, p := range ports {
		if m.attached[p.id] == nil {
			m.foreign[p.id] = p.addr
			m.pool.others[p.addr] = true
		}
	}
}

// remove takes back what an attachment has, as far as it got, and forgets it when nothing is left. The link goes
// first and the address last, so that nobody gets an address whose packets may still be under way.
func (m *Manager) remove(a *attachment) error {
	if a.addr.IsValid() {
		if err := m.unplug(a.id); err != nil {
			return fault.Systemf("detaching sandbox %s: %w", a.id, err)
		}
		if err := m.removeSource(source(m.bridge, a.id, a.addr)); err != nil {
			return fault.Systemf("detaching sandbox %s: %w", a.id, err)
		}
		m.forgetConnections(a.addr)
	}
	for _, held := range []**os.File{&a.netns, &a.tap} {
		if *held != nil {
			// The last reference that this process has. An error would not keep it open.
			_ = (*held).Close()
			*held = nil
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.addr.IsValid() {
		m.pool.free(a.addr)
	}
	a.gone = true
	delete(m.attached, a.id)
	return nil
}

// removeForeign takes back what another process left of a sandbox.
func (m *Manager) removeForeign(id string) error {
	if err := m.unplug(id); err != nil {
		return fault.Systemf("detaching sandbox %s: %w", id, err)
	}
	sources, err := m.sources()
	if err != nil {
		return fault.Systemf("detaching sandbox %s: %w", id, err)
	}
	for _, s := range sources {
		if s.Comment != id {
			continue
		}
		if err := m.removeSource(s); err != nil {
			return fault.Systemf("detaching sandbox %s: %w", id, err)
		}
		m.forgetConnections(sourceAddr(s))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pool.others, m.foreign[id])
	delete(m.foreign, id)
	return nil
}
