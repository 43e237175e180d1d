package network

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Exception is one entry of [network] allow: what sandboxes may reach although it is not the public internet.
type Exception struct {
	// Prefix are the addresses, masked; a single address is a /32.
	Prefix netip.Prefix
	// Port is the TCP and UDP port, 1 to 65535. 0 is every port and every protocol.
	Port uint16
}

// String returns the entry as it can be written in the configuration.
func (e Exception) String() string {
	text := e.Prefix.String()
	if e.Prefix.IsSingleIP() {
		text = e.Prefix.Addr().String()
	}
	if e.Port != 0 {
		text += ":" + strconv.Itoa(int(e.Port))
	}
	return text
}

// ParseException parses "ADDRESS", "ADDRESS:PORT", "NETWORK/LENGTH" or "NETWORK/LENGTH:PORT", IPv4 only as sandboxes
// have no IPv6. Errors are of class admin and name the entry.
func ParseException(entry string) (Exception, error) {
	bad := func(why string, args ...any) (Exception, error) {
		return Exception{}, fault.Adminf("[network] allow %q: "+why, append([]any{entry}, args...)...)
	}
	if strings.Count(entry, ":") > 1 || strings.HasPrefix(entry, "[") {
		return bad("IPv6 is off in sandboxes; name an IPv4 address or remove the entry")
	}
	host, port, hasPort := strings.Cut(entry, ":")
	var e Exception
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("%q is not a port between 1 and 65535", port)
		}
		e.Port = uint16(n)
	}
	if !strings.Contains(host, "/") {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return bad("%q is not an IPv4 address; names are not resolved here", host)
		}
		e.Prefix = netip.PrefixFrom(addr, 32)
		return e, nil
	}
	prefix, err := netip.ParsePrefix(host)
	if err != nil {
		return bad("%q is not an IPv4 network such as 10.0.0.0/8", host)
	}
	if prefix != prefix.Masked() {
		return bad("%s is not a network address; write %s or %s", host, prefix.Masked(), prefix.Addr())
	}
	e.Prefix = prefix
	return e, nil
}
