package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// guestLink is the name of a sandbox's interface.
const guestLink = "eth0"

// port is the host's end of a sandbox's veth pair, or its tap device.
type port struct {
	id   string
	addr netip.Addr
}

// plugVeth connects a new namespace to the bridge: the far end is made inside the namespace at once, so it never
// shows up on the host.
func (m *Manager) plugVeth(ctx context.Context, a *attachment, network *isolation.Network) error {
	ns, err := newNamespace()
	if err != nil {
		return err
	}
	defer ns.links.Close()
	a.netns, network.NetNS = ns.file, ns.path()
	m.host.RLock()
	defer m.host.RUnlock()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName(m.bridge, a.id)
	attrs.MTU, network.MTU = m.mtu, m.mtu
	attrs.MasterIndex = m.bridgeIndex
	veth := netlink.NewVeth(attrs)
	veth.PeerName = guestLink
	veth.PeerHardwareAddr = macOf(a.addr)
	veth.PeerNamespace = netlink.NsFd(ns.file.Fd())
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding link %s to %s: %w", attrs.Name, m.bridge, err)
	}
	if err := m.configurePort(veth, a); err != nil {
		return fmt.Errorf("configuring link %s: %w", attrs.Name, err)
	}
	guest, err := m.configureGuest(ns.links, a.addr)
	if err != nil {
		return fmt.Errorf("configuring %s of the sandbox: %w", guestLink, err)
	}
	if err := awaitCarrier(ctx, veth.Index, netlink.LinkByIndex); err != nil {
		return fmt.Errorf("waiting for link %s: %w", attrs.Name, err)
	}
	if err := awaitCarrier(ctx, guest.Attrs().Index, ns.links.LinkByIndex); err != nil {
		return fmt.Errorf("waiting for %s of the sandbox: %w", guestLink, err)
	}
	if err := awaitCarrier(ctx, m.bridgeIndex, netlink.LinkByIndex); err != nil { // it has one only with a port
		return fmt.Errorf("waiting for the bridge: %w", err)
	}
	return nil
}

// awaitCarrier returns when the kernel has noticed that both ends are up, which it does in the background. Until
// then it drops the link's packets, and a job's first connection would wait a second for its retransmission.
func awaitCarrier(ctx context.Context, index int, get func(int) (netlink.Link, error)) error {
	const patience, pause = 2 * time.Second, 100 * time.Microsecond
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no carrier after %s", patience))
	defer cancel()
	for {
		link, err := get(index)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// configurePort makes the host's end an isolated port that knows the one address behind it. It learns nothing and is
// never flooded, so a sandbox can neither draw nor see another's frames.
func (m *Manager) configurePort(link netlink.Link, a *attachment) error {
	if err := netlink.LinkSetAlias(link, alias(a.id, a.addr)); err != nil {
		return fmt.Errorf("alias: %w", err)
	}
	if err := disableIPv6(link.Attrs().Name); err != nil { // or the host would announce itself to the sandbox
		return err
	}
	if err := netlink.LinkSetIsolated(link, true); err != nil {
		return fmt.Errorf("isolated: %w", err)
	}
	if err := netlink.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("learning: %w", err)
	}
	if err := netlink.LinkSetFlood(link, false); err != nil {
		return fmt.Errorf("flood: %w", err)
	}
	err := netlink.NeighAppend(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP, HardwareAddr: macOf(a.addr), // NOARP is "static": known, not the bridge's own
	})
	if err != nil {
		return fmt.Errorf("forwarding entry: %w", err)
	}
	return netlink.LinkSetUp(link)
}

// configureGuest gives the sandbox's end its address and the default route.
func (m *Manager) configureGuest(links *netlink.Handle, addr netip.Addr) (netlink.Link, error) {
	link, err := links.LinkByName(guestLink)
	if err != nil {
		return nil, err
	}
	ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(m.subnet.Bits(), 32)}
	if err := links.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
		return nil, fmt.Errorf("address %s: %w", ip, err)
	}
	if err := links.LinkSetUp(link); err != nil {
		return nil, err
	}
	err = links.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: m.gateway.AsSlice()})
	if err != nil {
		return nil, fmt.Errorf("default route by %s: %w", m.gateway, err)
	}
	return link, nil
}

// unplug removes a sandbox's veth pair, both ends, or its tap device; it succeeds when there is none.
func (m *Manager) unplug(id string) error {
	name := portName(m.bridge, id)
	link, err := netlink.LinkByName(name)
	if isLinkNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding link %s: %w", name, err)
	}
	// The kernel may be removing it already, with its namespace.
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing link %s: %w", name, err)
	}
	return nil
}

// ports lists the bridge's ports that carry a sandbox's name, whoever made them.
func (m *Manager) ports() ([]port, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var ports []port
	for _, link := range links {
		attrs := link.Attrs()
		if !strings.HasPrefix(attrs.Name, PortPrefix(m.bridge)) {
			continue
		}
		if id, addr, ok := parseAlias(attrs.Alias); ok {
			ports = append(ports, port{id, addr})
		}
	}
	return ports, nil
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
