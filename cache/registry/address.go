package registry

import (
	"net/netip"
	"strings"
)

// reach reports how near to this host an address is. A registry may not lead pulls to where it is not itself: an
// address of its own reach or a lesser one.
type reach int32

const (
	// onInternet: what anybody can reach.
	onInternet reach = iota
	// onSite: an organisation's own networks.
	onSite
	// onHost: loopback.
	onHost
	// nowhere: no registry has such an address: link-local ones, where clouds serve a host's secrets, and what names no
	// single host.
	nowhere
)

// specialNetworks are those whose reach netip does not tell: IANA's special-purpose registries (RFC 6890), and the
// addresses at which clouds serve the metadata and credentials of a host, though they look like any other.
var specialNetworks = []struct {
	network netip.Prefix
	reach   reach
}{
	{netip.MustParsePrefix("0.0.0.0/8"), nowhere},          // "this network"; Linux takes 0.0.0.0 for loopback
	{netip.MustParsePrefix("240.0.0.0/4"), nowhere},        // reserved, and broadcast
	{netip.MustParsePrefix("100.100.100.200/32"), nowhere}, // metadata: Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), nowhere},   // metadata: Azure
	{netip.MustParsePrefix("192.0.0.192/32"), nowhere},     // metadata: Oracle
	{netip.MustParsePrefix("fd00:ec2::/32"), nowhere},      // metadata: AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), nowhere},   // metadata: Google
	{netip.MustParsePrefix("100.64.0.0/10"), onSite},       // carriers' NAT (RFC 6598)
	{netip.MustParsePrefix("192.0.0.0/24"), onSite},        // protocol assignments
	{netip.MustParsePrefix("192.0.2.0/24"), onSite},        // documentation, as are the next two
	{netip.MustParsePrefix("198.51.100.0/24"), onSite},     //
	{netip.MustParsePrefix("203.0.113.0/24"), onSite},      //
	{netip.MustParsePrefix("198.18.0.0/15"), onSite},       // benchmarking
	{netip.MustParsePrefix("fec0::/10"), onSite},           // site-local, deprecated
	{netip.MustParsePrefix("2001:db8::/32"), onSite},       // documentation
	{netip.MustParsePrefix("2001::/32"), onSite},           // Teredo
	{netip.MustParsePrefix("64:ff9b:1::/48"), onSite},      // NAT64 of a site (RFC 8215)
	{netip.MustParsePrefix("::ffff:0:0:0/96"), onSite},     // translated IPv4 (RFC 2765)
	{netip.MustParsePrefix("::/96"), onSite},               // IPv4-compatible, deprecated
}

// embeddings are the networks whose addresses stand for an IPv4 address, and the byte at which that begins.
var embeddings = []struct {
	network netip.Prefix
	at      int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},  // NAT64 of a site
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // translated
	{netip.MustParsePrefix("::/96"), 12},           // compatible
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4 (RFC 3056)
}

// reachOf classifies an address, and with it the IPv4 address that it may stand for.
func reachOf(address netip.Addr) reach {
	address = address.WithZone("").Unmap()
	switch {
	case !address.IsValid(), address.IsUnspecified(), address.IsMulticast(), address.IsLinkLocalUnicast():
		return nowhere
	case address.IsLoopback():
		return onHost
	}
	found := onInternet
	if address.IsPrivate() {
		found = onSite
	}
	for _, special := range specialNetworks {
		if special.network.Contains(address) {
			found = max(found, special.reach)
		}
	}
	for _, embedding := range embeddings {
		if embedding.network.Contains(address) {
			bytes := address.As16()
			found = max(found, reachOf(netip.AddrFrom4([4]byte(bytes[embedding.at:embedding.at+4]))))
		}
	}
	return found
}

// literalReach classifies a host that needs no look-up: an address, or a name of this host. Others, ok is false, are
// classified by the addresses that they turn out to have.
func literalReach(host string) (r reach, ok bool) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if address, err := netip.ParseAddr(host); err == nil {
		return reachOf(address), true
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return onHost, true
	}
	if endsInNumber(host) {
		return nowhere, true
	}
	return onInternet, false
}

// endsInNumber reports whether some resolvers take a host for an IPv4 address in one of inet_aton's forms ("127.1",
// "0x7f000001", "2130706433"). No top-level domain is a number, so such a host is nothing else.
func endsInNumber(host string) bool {
	last := host[strings.LastIndex(host, ".")+1:]
	if hex, found := strings.CutPrefix(last, "0x"); found {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
