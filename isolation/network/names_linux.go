package network

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/netip"
	"strings"
)

// digest returns the first n characters of a hash of text, in lower case letters and digits.
func digest(text string, n int) string {
	sum := sha256.Sum256([]byte(text))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:]))[:n]
}

// PortPrefix is what the names of a bridge's ports begin with, 6 bytes. The rules against forged sources match
// it, so a port is never without them, and other bridges' ports never meet them.
func PortPrefix(bridge string) string { return "al" + digest(bridge, 4) }

// portName is the host's end of a sandbox's veth pair, or its tap device: 15 bytes, the most that a link's name can have.
func portName(bridge, id string) string { return PortPrefix(bridge) + digest(id, 9) }

// macOf derives a MAC address from an IP address: one owner per address, the same each time, so that
// neighbours' caches are never wrong. 02 marks it as locally administered.
func macOf(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return append(macPrefix(), ip[:]...)
}

func macPrefix() net.HardwareAddr { return net.HardwareAddr{0x02, 0xa1} }

// alias is what a port says about itself, also to an administrator who looks at `ip link`.
func alias(id string, addr netip.Addr) string { return "airlock " + id + " " + addr.String() }

// parseAlias is alias backwards.
func parseAlias(text string) (id string, addr netip.Addr, ok bool) {
	fields := strings.Split(text, " ")
	if len(fields) != 3 || fields[0] != "airlock" || fields[1] == "" {
		return "", netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(fields[2])
	if err != nil || !addr.Is4() {
		return "", netip.Addr{}, false
	}
	return fields[1], addr, true
}
