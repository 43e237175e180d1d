package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Network is the network as pulls see it. Authors choose images' names, and registries what to redirect to, so every
// address is looked at in the moment in which it is dialled: what a name server says a second time counts for nothing.
// Connections are kept in pools by what was allowed for them, so that no request finds one that it could not have made.
type Network struct {
	insecure []string // hosts, lower case
	silence  time.Duration
	proxy    func(*http.Request) (*url.URL, error)

	named     *http.Transport             // to registries, which images name
	elsewhere [onHost + 1]*http.Transport // to where registries lead, by the reach of the registry
	proxied   *http.Transport             // to the administrator's proxy
}

// NewNetwork returns a network in which what does not begin to answer for silence has failed. The insecure hosts may be talked
// to by plain HTTP, and only they may be on this host.
func NewNetwork(insecure []string, silence time.Duration, proxy func(*http.Request) (*url.URL, error)) *Network {
	n := &Network{proxy: proxy, silence: silence}
	for _, host := range insecure {
		n.insecure = append(n.insecure, strings.ToLower(host))
	}
	transport := func(limit func(address string) reach) *http.Transport {
		return &http.Transport{
			DialContext:            dialer(silence, limit),
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  silence,
			MaxResponseHeaderBytes: 256 << 10,
			DisableCompression:     true, // a blob's bytes are what its digest is of, and ranges count them
		}
	}
	n.named = transport(func(address string) reach {
		if n.Lists(address) {
			return onHost
		}
		return onSite
	})
	for r := range n.elsewhere {
		n.elsewhere[r] = transport(func(string) reach { return reach(r) })
	}
	n.proxied = transport(func(string) reach { return nowhere })
	n.proxied.Proxy = proxy
	return n
}

// dialer connects to addresses of a reach up to the limit for what is dialled.
func dialer(timeout time.Duration, limit func(address string) reach) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		highest := limit(address)
		d := net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}
		d.Control = func(_, resolved string, _ syscall.RawConn) error {
			target, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return fmt.Errorf("dialling %q: %w", resolved, err)
			}
			if r := reachOf(target.Addr()); r > highest {
				return &addressError{r}
			}
			return nil
		}
		return d.DialContext(ctx, network, address)
	}
}

// Lists reports whether the administrator named a host, with or without the default port of either scheme.
func (n *Network) Lists(address string) bool {
	address = strings.ToLower(address)
	if slices.Contains(n.insecure, address) {
		return true
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port != "80" && port != "443" {
		return false
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return slices.Contains(n.insecure, host)
}

// CloseIdle closes the connections that nobody uses.
func (n *Network) CloseIdle() {
	for _, t := range append(n.elsewhere[:], n.named, n.proxied) {
		t.CloseIdleConnections()
	}
}
