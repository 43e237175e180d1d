package network

import (
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A tracked connection outlives the sandbox that opened it, and packets that belong to it would reach the next sandbox
// with the same address. So connections are forgotten with the address. Failing at it is logged, not an error: the
// address is used again late, and the connection then ends by itself.

// Of linux/netfilter/nfnetlink_conntrack.h. Linux 5.8 and later know the filter; earlier ones refuse the request.
const (
	ctMsgDelete        = 2
	ctaTupleOrig       = 1
	ctaTupleIP         = 1
	ctaIPv4Source      = 1
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterByIPSource   = 1 << 0
)

// forgetConnections lets the kernel drop all connections that an address opened.
func (m *Manager) forgetConnections(addr netip.Addr) {
	attributes := mdnetlink.NewAttributeEncoder()
	attributes.Nested(ctaTupleOrig, func(tuple *mdnetlink.AttributeEncoder) error {
		tuple.Nested(ctaTupleIP, func(ip *mdnetlink.AttributeEncoder) error {
			ip.Bytes(ctaIPv4Source, addr.AsSlice())
			return nil
		})
		return nil
	})
	attributes.Nested(ctaFilter, func(filter *mdnetlink.AttributeEncoder) error {
		filter.Uint32(ctaFilterOrigFlags, filterByIPSource)
		return nil
	})
	data, err := attributes.Encode()
	if err == nil {
		err = m.netfilter.execute(mdnetlink.Message{
			Header: mdnetlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctMsgDelete, Flags: mdnetlink.Request | mdnetlink.Acknowledge},
			Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, data...),
		})
	}
	if err != nil {
		m.log.Warn().Err(err).Stringer("address", addr).Msg("connections_not_forgotten")
	}
}

// forgetStrangers drops the connections that sandboxes of an earlier process opened, all but the members'.
func (m *Manager) forgetStrangers(members []port) {
	filter := strangers{subnet: m.subnet, members: map[netip.Addr]bool{}}
	for _, p := range members {
		filter.members[p.addr] = true
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
		m.log.Warn().Err(err).Stringer("subnet", m.subnet).Msg("connections_not_forgotten")
	}
}

// strangers matches connections from the subnet that belong to no member.
type strangers struct {
	subnet  netip.Prefix
	members map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s strangers) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	addr, ok := netip.AddrFromSlice(flow.Forward.SrcIP)
	addr = addr.Unmap()
	return ok && s.subnet.Contains(addr) && !s.members[addr]
}
