package network

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Options are what the administrator configured.
type Options struct {
	// Bridge is the name of the bridge and of both nftables tables: 1 to 11 letters, digits, "-" or "_".
	Bridge string
	// Subnet is the sandboxes' IPv4 network, /16 to /28. The bridge has its first address.
	Subnet string
	// Allow are exceptions from "nothing but the internet"; see ParseException.
	Allow []string
	// MaxConnections is how many connections one sandbox may have open at a time, and how many it may open at once:
	// 1 to MostConnections. In a minute it may open twice as many.
	MaxConnections int
	// DNS are the sandboxes' name servers, IPv4 addresses. Empty: those of the host that a sandbox can use.
	DNS []string
	// DNSSearch are search domains. Empty: with DNS also empty, those of the host.
	DNSSearch []string
	// ExtraHosts are "name:address" pairs, as in GitLab Runner's extra_hosts.
	ExtraHosts []string
	// Logger receives what happens to the host: bridge made, forwarding switched on, rules made again.
	Logger zerolog.Logger
}

// The modes of Attach.
const (
	ModeNAT  = "nat"
	ModeNone = "none"
)

// MostConnections is the highest MaxConnections: more than the usual table of a host has room for.
const MostConnections = 1 << 20

// settings are Options, parsed.
type settings struct {
	bridge     string
	subnet     netip.Prefix // masked
	gateway    netip.Addr   // its first address
	exceptions []Exception
	// maxConnections is never 0.
	maxConnections uint32
	servers        []netip.Addr // empty: the host's
	search         []string
	hosts          []string // lines of /etc/hosts
}

// parse checks every option; its errors are of class admin and name the key and the entry.
func (o Options) parse() (settings, error) {
	s := settings{bridge: o.Bridge, search: o.DNSSearch}
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,11}$`).MatchString(o.Bridge) {
		return s, fault.Adminf("[network] bridge %q: use 1 to 11 letters, digits, \"-\" or \"_\"", o.Bridge)
	}
	var err error
	if s.subnet, err = parseSubnet(o.Subnet); err != nil {
		return s, err
	}
	s.gateway = s.subnet.Addr().Next()
	for _, entry := range o.Allow {
		exception, err := ParseException(entry)
		if err != nil {
			return s, err
		}
		s.exceptions = append(s.exceptions, exception)
	}
	if o.MaxConnections < 1 || o.MaxConnections > MostConnections {
		return s, fault.Adminf("[network] max_connections %d: use a number from 1 to %d", o.MaxConnections, MostConnections)
	}
	s.maxConnections = uint32(o.MaxConnections)
	if s.servers, err = parseServers(o.DNS); err != nil {
		return s, err
	}
	for _, entry := range o.ExtraHosts {
		line, err := parseExtraHost(entry)
		if err != nil {
			return s, err
		}
		s.hosts = append(s.hosts, line)
	}
	return s, nil
}

// parseSubnet accepts an IPv4 network of /16 to /28, written with its network address.
func parseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fault.Adminf("[network] subnet %q is not a network such as \"172.29.0.0/16\"", text)
	case !p.Addr().Is4():
		return p, fault.Adminf("[network] subnet %q: sandboxes have IPv4 only", text)
	case p.Bits() < 16 || p.Bits() > 28:
		return p, fault.Adminf("[network] subnet %q: use a prefix length of 16 to 28", text)
	case p != p.Masked():
		return p, fault.Adminf("[network] subnet %q: the network address of that is %s", text, p.Masked())
	}
	return p, nil
}

// parseServers accepts IPv4 addresses that mean the same inside a sandbox as outside.
func parseServers(entries []string) ([]netip.Addr, error) {
	var servers []netip.Addr
	for _, entry := range entries {
		addr, err := netip.ParseAddr(entry)
		switch {
		case err != nil:
			return nil, fault.Adminf("dns %q is not an IP address", entry)
		case !addr.Is4():
			return nil, fault.Adminf("dns %q: sandboxes have IPv4 only", entry)
		case !usableServer(addr):
			return nil, fault.Adminf("dns %q: within a sandbox that address is not the host's; name one that others can reach", entry)
		}
		servers = append(servers, addr)
	}
	return servers, nil
}

// usableServer says whether a sandbox can ask this server: IPv4, and not an address that means the sandbox itself.
func usableServer(addr netip.Addr) bool {
	return addr.Is4() && !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsMulticast()
}

// parseExtraHost turns "name:address" into a line of /etc/hosts. The address may be IPv6, with or without
// brackets: it is the job's file, whatever it can reach.
func parseExtraHost(entry string) (string, error) {
	name, address, ok := strings.Cut(entry, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\r\n#") {
		return "", fault.Adminf("extra_hosts %q is not \"name:address\"", entry)
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"))
	if err != nil || addr.Zone() != "" {
		return "", fault.Adminf("extra_hosts %q: %q is not an IP address", entry, address)
	}
	return addr.String() + " " + name, nil
}
