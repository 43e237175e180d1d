package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Prepare makes the rules and the bridge, if this Manager has not yet, and takes over what an earlier process
// left of them. Attach calls it in mode "nat"; calling it at start shows problems before the first job does.
func (m *Manager) Prepare(context.Context) error {
	m.host.RLock()
	ready := m.bridgeIndex != 0
	m.host.RUnlock()
	if ready {
		return nil
	}
	m.host.Lock()
	defer m.host.Unlock()
	if m.bridgeIndex != 0 {
		return nil
	}
	return m.prepare()
}

// repair prepares again what was flushed or removed behind our back.
func (m *Manager) repair(context.Context) error {
	m.host.Lock()
	defer m.host.Unlock()
	if m.bridgeIndex == 0 {
		return nil
	}
	whole, err := m.rulesInstalled()
	if err != nil {
		return fault.Systemf("looking for the rules of %s: %w", m.bridge, err)
	}
	bridge, err := m.findBridge()
	if err != nil {
		return err
	}
	if whole && bridge != nil && bridge.Attrs().Index == m.bridgeIndex {
		return nil
	}
	m.log.Warn().Msg("bridge_or_rules_were_removed_and_are_made_again")
	return m.prepare()
}

// prepare makes everything, rules first: at no time is there a bridge without them. The lock is held.
func (m *Manager) prepare() error {
	ports, err := m.ports()
	if err != nil {
		return fault.Systemf("listing the ports of %s: %w", m.bridge, err)
	}
	bridge, err := m.findBridge()
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.noteForeign(ports)
	members := ports
	for id, a := range m.attached {
		if a.addr.IsValid() {
			members = append(members, port{id, a.addr})
		}
	}
	asked := make([]netip.Addr, 0, len(m.asked))
	for server := range m.asked {
		asked = append(asked, server)
	}
	m.mu.Unlock()

	if err := m.installRules(members, asked); err != nil {
		return fault.WithRemedy(fault.Adminf("installing the nftables rules of %s: %w", m.bridge, err),
			"the kernel needs nftables with the families inet and bridge, NAT, conntrack, limit and connlimit (nft_limit, nft_connlimit)")
	}
	m.forgetStrangers(members)
	if m.mtu, err = uplinkMTU(); err != nil {
		return fault.Systemf("finding the MTU of %s: %w", m.bridge, err)
	}
	index, err := m.makeBridge(bridge)
	if err != nil {
		return fault.Systemf("making the bridge %s: %w", m.bridge, err)
	}
	if err := m.enableForwarding(); err != nil {
		return fault.Systemf("preparing %s: %w", m.bridge, err)
	}
	m.bridgeIndex = index
	m.log.Info().Stringer("subnet", m.subnet).Int("mtu", m.mtu).Int("ports_found", len(ports)).Msg("network_ready")
	return nil
}

// findBridge returns our bridge, or nil when there is none. A link of that name that is not ours is refused: it may
// carry the host's own traffic.
func (m *Manager) findBridge() (netlink.Link, error) {
	link, err := netlink.LinkByName(m.bridge)
	if isLinkNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Systemf("finding the bridge %s: %w", m.bridge, err)
	}
	mac := link.Attrs().HardwareAddr
	if link.Type() != "bridge" || !bytes.HasPrefix(mac, macPrefix()) {
		return nil, fault.WithRemedy(fault.Adminf("link %s (%s, %s) exists and was not made by Airlock", m.bridge, link.Type(), mac),
			"choose another name for [network] bridge, or remove that link")
	}
	return link, nil
}

// makeBridge adds the bridge, or brings the existing one to what the options say, and sets it up.
func (m *Manager) makeBridge(bridge netlink.Link) (index int, err error) {
	mac := macOf(m.gateway)
	if bridge == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = m.bridge, mac, m.mtu
		snooping := false // there is no multicast to learn about
		bridge = &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(bridge); err != nil {
			return 0, err
		}
	}
	if !bytes.Equal(bridge.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(bridge, mac); err != nil {
			return 0, fmt.Errorf("MAC %s: %w", mac, err)
		}
	}
	if err := netlink.LinkSetMTU(bridge, m.mtu); err != nil {
		return 0, fmt.Errorf("MTU %d: %w", m.mtu, err)
	}
	if err := m.bridgeSysctls(); err != nil {
		return 0, err
	}
	if err := m.bridgeAddress(bridge); err != nil {
		return 0, err
	}
	return bridge.Attrs().Index, netlink.LinkSetUp(bridge)
}

// bridgeAddress makes the gateway's address the bridge's only one.
func (m *Manager) bridgeAddress(bridge netlink.Link) error {
	want := &net.IPNet{IP: m.gateway.AsSlice(), Mask: net.CIDRMask(m.subnet.Bits(), 32)}
	present, err := netlink.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, addr := range present {
		if addr.IPNet.String() == want.String() {
			continue
		}
		if err := netlink.AddrDel(bridge, &addr); err != nil {
			return fmt.Errorf("removing address %s: %w", addr.IPNet, err)
		}
	}
	if err := netlink.AddrReplace(bridge, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("address %s: %w", want, err)
	}
	return nil
}

// bridgeSysctls keeps the bridge from talking more than it must: no IPv6, no redirects, and an answer to ARP only for
// its own address, so that sandboxes cannot find out the host's others.
func (m *Manager) bridgeSysctls() error {
	for name, value := range map[string]string{
		"arp_ignore": "1", "accept_redirects": "0", "send_redirects": "0", "route_localnet": "0", "proxy_arp": "0",
	} {
		path := "/proc/sys/net/ipv4/conf/" + m.bridge + "/" + name
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return disableIPv6(m.bridge)
}

// enableForwarding makes the host a router, which NAT needs. It stays one: others may have come to rely on it.
func (m *Manager) enableForwarding() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	value, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if string(bytes.TrimSpace(value)) == "1" {
		return nil
	}
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return fmt.Errorf("switching on %s: %w", path, err)
	}
	m.log.Info().Str("path", path).Msg("ip_forward_switched_on")
	return nil
}

// uplinkMTU is the smallest MTU of the links with a default route, at most Ethernet's 1500: sandboxes then never
// depend on a path's ICMP messages to find out that the host's own uplink is narrower.
func uplinkMTU() (int, error) {
	mtu := 1500
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, err
	}
	for _, route := range routes {
		if !isDefault(route.Dst) || route.LinkIndex == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			return 0, err
		}
		mtu = min(mtu, link.Attrs().MTU)
	}
	return mtu, nil
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// checkOverlap refuses a subnet that the host has a route into, except by our own bridge.
func checkOverlap(s settings) error {
	own := 0
	if link, err := netlink.LinkByName(s.bridge); err == nil {
		own = link.Attrs().Index
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fault.Systemf("listing the host's routes: %w", err)
	}
	for _, route := range routes {
		if isDefault(route.Dst) || (own != 0 && route.LinkIndex == own) {
			continue
		}
		addr, ok := netip.AddrFromSlice(route.Dst.IP)
		ones, _ := route.Dst.Mask.Size()
		if !ok || !s.subnet.Overlaps(netip.PrefixFrom(addr.Unmap(), ones)) {
			continue
		}
		device := "no device"
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
			device = link.Attrs().Name
		}
		return fault.WithRemedy(fault.Adminf("[network] subnet %s overlaps the host's route %s (%s)", s.subnet, route.Dst, device),
			"set [network] subnet to a network that this host does not use")
	}
	return nil
}

// Remove takes the tables and the bridge away, as when the service is uninstalled. It refuses while any sandbox has a
// port. ip_forward stays as it is.
func (m *Manager) Remove(context.Context) error {
	m.host.Lock()
	defer m.host.Unlock()
	ports, err := m.ports()
	if err != nil {
		return fault.Systemf("listing the ports of %s: %w", m.bridge, err)
	}
	m.mu.Lock()
	inUse := len(ports)
	for id, a := range m.attached {
		if a.addr.IsValid() && !containsPort(ports, id) {
			inUse++
		}
	}
	m.mu.Unlock()
	if inUse > 0 {
		return fault.WithRemedy(fault.Adminf("%s has %d sandboxes attached", m.bridge, inUse), "end their jobs first")
	}
	bridge, err := m.findBridge()
	if err != nil {
		return err
	}
	if bridge != nil {
		if err := netlink.LinkDel(bridge); err != nil && !errors.Is(err, unix.ENODEV) {
			return fault.Systemf("removing the bridge %s: %w", m.bridge, err)
		}
	}
	m.bridgeIndex = 0
	m.netfilter.close()
	if err := m.removeRules(); err != nil {
		return fault.Systemf("removing the rules of %s: %w", m.bridge, err)
	}
	return nil
}

func containsPort(ports []port, id string) bool {
	for _, p := range ports {
		if p.id == id {
			return true
		}
	}
	return false
}
