package network

import (
	"net/netip"
	"strings"
)

// resolverFiles are where the host keeps its name servers. When the first names only its own stub, as with
// systemd-resolved, the second has the real ones.
func resolverFiles() []string {
	return []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
}

// resolver is what a resolv.conf says, as far as a sandbox can use it.
type resolver struct {
	servers         []netip.Addr
	search, options []string
}

// parseResolver reads a resolv.conf (see resolv.conf(5)), leaving out servers that a sandbox cannot use. Lines
// that it does not know are skipped, as the C library does.
func parseResolver(text string) resolver {
	var r resolver
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil && usableServer(addr) {
				r.servers = append(r.servers, addr)
			}
		case "search", "domain":
			r.search = fields[1:]
		case "options":
			r.options = append(r.options, fields[1:]...)
		}
	}
	return r
}

// hostResolver returns the first file's resolver that has a server left; read returns a file's text.
func hostResolver(files []string, read func(string) ([]byte, error)) resolver {
	for _, file := range files {
		text, err := read(file)
		if err != nil {
			continue
		}
		if r := parseResolver(string(text)); len(r.servers) > 0 {
			return r
		}
	}
	return resolver{}
}
