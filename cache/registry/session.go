package registry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// errPlainHTTP says that a host would have to be talked to without encryption, and is not listed for that.
var errPlainHTTP = errors.New("it offers plain HTTP only")

// addressError says that a host has an address to which no request may go.
type addressError struct{ reach reach }

// Error says what kind of address it is, and not which.
func (e *addressError) Error() string {
	switch e.reach {
	case onHost:
		return "it is this runner's own host"
	case onSite:
		return "its address is private"
	default:
		return "its address is no registry's (link-local, metadata of a cloud, reserved)"
	}
}

// elsewhereError says that a request failed at another host, to which the registry had led it: by a redirect, or by
// naming who gives out its tokens.
type elsewhereError struct {
	host string
	err  error
}

// Error is error's.
func (e *elsewhereError) Error() string { return fmt.Sprintf("it leads to %s: %s", e.host, e.err) }

// Unwrap returns the cause.
func (e *elsewhereError) Unwrap() error { return e.err }

// session is the network as one user of one registry sees it.
type session struct {
	network *Network
	host    string // the registry's as in URLs; empty: none is trusted
	// found is the reach of the registry, plus one; 0 as long as nothing came from it.
	found atomic.Int32
	// busy is the Unix time, in nanoseconds, before which the registry does not want to be asked again.
	busy atomic.Int64
}

// reached reports whether the registry ever answered.
func (s *session) reached() bool { return s.found.Load() > 0 }

// RoundTrip is http.RoundTripper's.
func (s *session) RoundTrip(req *http.Request) (*http.Response, error) {
	own := s.owns(req.URL)
	resp, err := s.send(req, own)
	switch {
	case err != nil && own:
		return nil, err
	case err != nil:
		return nil, &elsewhereError{req.URL.Host, err}
	}
	if resp.StatusCode >= http.StatusBadRequest {
		s.noteBusy(resp.Header.Get("Retry-After"))
	}
	if resp.StatusCode >= http.StatusBadRequest || req.Context().Value(contentKey{}) == nil {
		resp.Body = &shortened{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, nil
}

func (s *session) send(req *http.Request, own bool) (*http.Response, error) {
	if req.URL.Scheme != "https" && !s.network.Lists(req.URL.Host) {
		return nil, errPlainHTTP
	}
	limit := onInternet
	if own {
		limit = onSite
		if s.network.Lists(req.URL.Host) {
			limit = onHost
		}
	} else if known := s.found.Load(); known > 0 {
		limit = reach(known - 1)
	}
	literal, isLiteral := literalReach(req.URL.Hostname())
	if literal > limit {
		return nil, &addressError{literal}
	}
	proxy, err := s.network.proxy(req)
	switch {
	case err != nil:
		return nil, fmt.Errorf("finding the proxy: %w", err)
	case proxy != nil: // which resolves names itself, and is the administrator's
		resp, err := s.network.proxied.RoundTrip(req)
		if err == nil && own {
			s.note(literal)
		}
		return resp, err
	case !own:
		return s.network.elsewhere[limit].RoundTrip(req)
	}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if address, err := netip.ParseAddrPort(info.Conn.RemoteAddr().String()); err == nil {
			s.note(reachOf(address.Addr()))
		} else if isLiteral {
			s.note(literal)
		}
	}}
	return s.network.named.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
}

// note keeps where the registry was found first: a name server cannot change what it may lead to afterwards.
func (s *session) note(r reach) { s.found.CompareAndSwap(0, int32(r)+1) }

// owns reports whether a URL is of the registry itself.
func (s *session) owns(u *url.URL) bool {
	return s.host != "" && withPort(u.Host, u.Scheme) == withPort(s.host, u.Scheme)
}

func withPort(host, scheme string) string {
	host = strings.ToLower(host)
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return host + ":" + map[string]string{"http": "80", "https": "443"}[scheme]
}

// noteBusy reads a Retry-After header (RFC 9110, 10.2.3): seconds, or a date.
func (s *session) noteBusy(header string) {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		s.busy.Store(time.Now().Add(time.Duration(seconds) * time.Second).UnixNano())
	} else if date, err := http.ParseTime(header); err == nil {
		s.busy.Store(date.UnixNano())
	}
}

// contentKey marks the context of requests whose answers are content, read with a bound of its own. All others are
// read to maxAnswer bytes: challenges, tokens, errors.
type contentKey struct{}

const maxAnswer = 64 << 10

type shortened struct {
	io.Reader
	io.Closer
}

// maxRedirects is how often a request follows on. Registries need one, to where their blobs lie.
const maxRedirects = 5

var errRedirects = fmt.Errorf("it redirects more than %d times", maxRedirects)

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	req.Header.Del("Referer") // the URL before may be a signed one
	return nil
}
