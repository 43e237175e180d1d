package layout

import (
	"fmt"
	"strings"

	"github.com/airlock-ci/airlock/isolation"
)

// NamesFiles returns what tells a root who it is and whom to ask: resolv.conf(5), hosts(5), hostname(5), by
// their paths in the root.
func NamesFiles(spec isolation.Spec) map[string]string {
	return map[string]string{
		"etc/resolv.conf": resolvConf(spec.Network),
		"etc/hosts":       hosts(spec),
		"etc/hostname":    spec.Hostname + "\n",
	}
}

func resolvConf(network isolation.Network) string {
	var b strings.Builder
	for _, server := range network.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(network.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(network.Search, " "))
	}
	if len(network.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(network.Options, " "))
	}
	return b.String()
}

func hosts(spec isolation.Spec) string {
	var b strings.Builder
	// With both addresses for localhost, resolvers would give ::1 first and programs that try one address alone would miss
	// servers that listen on IPv4, which is what sandboxes have.
	b.WriteString("127.0.0.1\tlocalhost\n::1\tip6-localhost ip6-loopback\n")
	if spec.Hostname != "" {
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", spec.Hostname)
	}
	for _, line := range spec.Network.Hosts {
		b.WriteString(line + "\n")
	}
	return b.String()
}
