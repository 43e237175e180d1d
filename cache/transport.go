package cache

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// errPlainHTTP says that a registry, or where it redirected to, wants to be talked to without encryption.
var errPlainHTTP = errors.New("it offers plain HTTP only")

// errLinkLocal says that a name or redirect leads to a link-local address. Cloud hosts serve their own secrets
// at one (169.254.169.254), and authors choose images' names.
var errLinkLocal = errors.New("its address is link-local")

// newTransport returns the transport for registries and a function that closes its idle connections.
func newTransport(insecure []string) (http.RoundTripper, func()) {
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: refuseLinkLocal}
	inner := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
	}
	return &encrypted{inner: inner, insecure: insecure}, inner.CloseIdleConnections
}

func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dialling %q: %w", address, err)
	}
	if target.Addr().Unmap().IsLinkLocalUnicast() {
		return errLinkLocal
	}
	return nil
}

// encrypted refuses plain HTTP except to loopback and to the registries that the administrator listed. The
// registry library by itself would also talk it to private addresses, credentials included.
type encrypted struct {
	inner    http.RoundTripper
	insecure []string
}

// RoundTrip is http.RoundTripper's.
func (e *encrypted) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Hostname()) && !slices.Contains(e.insecure, req.URL.Host) {
		return nil, fmt.Errorf("%s: %w", req.URL.Host, errPlainHTTP)
	}
	return e.inner.RoundTrip(req)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
