package cache_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache"
	"github.com/airlock-ci/airlock/internal/fault"
)

// TestWhereRegistriesMayLead has registries at addresses of each kind, all real: the test plays itself again in a network
// namespace of its own, whose loopback device has them, with a name server and certificates.
func TestWhereRegistriesMayLead(t *testing.T) {
	const child = "AIRLOCK_CACHE_TEST_NETWORK"
	if os.Getenv(child) != "" {
		playInternet(t)
		return
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, errors.New("the child took too long"))
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"="+t.TempDir(), "SSL_CERT_FILE="+filepath.Join(t.TempDir(), "none"), "GODEBUG=netdns=go")
	authority := filepath.Join(t.TempDir(), "ca.pem")
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+authority)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: "+t.Name()+"/", "it did run")
}

// Where things are in the child's internet.
const (
	publicRegistry, publicStore   = "8.8.8.8", "8.8.4.4"
	privateRegistry, privateStore = "10.9.8.7", "10.9.8.8"
	metadata                      = "169.254.169.254"
)

// internet is what the child has made.
type internet struct {
	certificate tls.Certificate
	rebound     atomic.Int32 // how often rebind.example was looked up
	registries  map[string]*hub
	store       *store
}

// store is a web server at many addresses, to which registries lead. It counts who came.
type store struct {
	mu      sync.Mutex
	visits  []string
	content func(w http.ResponseWriter, r *http.Request)
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.visits = append(s.visits, r.Host+r.URL.Path+" "+r.Header.Get("Authorization"))
	content := s.content
	s.mu.Unlock()
	content(w, r)
}

func (s *store) seen(content func(w http.ResponseWriter, r *http.Request)) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	visits := s.visits
	s.visits, s.content = nil, content
	return visits
}

func playInternet(t *testing.T) {
	w := &internet{registries: map[string]*hub{}, store: &store{}}
	w.makeAddresses(t)
	w.certificate = makeCertificate(t, os.Getenv("SSL_CERT_FILE"))
	w.serveNames(t)
	for _, address := range []string{"127.0.0.1", "[::1]", "[64:ff9b::7f00:1]", "[fd00::8]", publicStore, privateStore, metadata} {
		w.serve(t, address+":443", w.store)
	}
	for name, address := range map[string]string{"loopback": "127.0.0.1:5000", "private": privateRegistry + ":5000", "public": publicRegistry + ":5000"} {
		w.registries[name] = w.hubAt(t, address)
	}
	t.Run("redirects", w.redirects)
	t.Run("tokens", w.tokens)
	t.Run("names that change", w.rebinding)
	t.Run("direct", w.direct)
	t.Run("through a proxy", w.proxied)
}

// makeAddresses gives the namespace its addresses, and a resolv.conf.
func (w *internet) makeAddresses(t *testing.T) {
	link, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(link))
	for _, address := range []string{publicRegistry + "/32", publicStore + "/32", privateRegistry + "/32", privateStore + "/32",
		metadata + "/32", "fd00::8/128", "64:ff9b::7f00:1/128"} {
		parsed, err := netlink.ParseAddr(address)
		require.NoError(t, err)
		parsed.Flags = unix.IFA_F_NODAD
		require.NoError(t, netlink.AddrAdd(link, parsed), address)
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(conf, []byte("nameserver 127.0.0.1\noptions attempts:1 timeout:2\n"), 0o600))
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	require.NoError(t, err)
	require.NoError(t, unix.Mount(conf, target, "", unix.MS_BIND, ""))
}

// serveNames is a name server. rebind.example is public when it is asked for first, and this host ever after.
func (w *internet) serveNames(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := w.answer(buffer[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
}

func (w *internet) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	name := strings.TrimSuffix(m.Questions[0].Name.String(), ".")
	addresses := map[string]string{"public.example": publicStore, "private.example": privateStore, "loop.example": "127.0.0.1",
		"mixed.example": metadata, "registry.example": publicRegistry}
	m.Header.Response, m.Header.Authoritative = true, true
	address, known := addresses[name], true
	if name == "rebind.example" {
		address = "127.0.0.1"
		if m.Questions[0].Type == dnsmessage.TypeA && w.rebound.Add(1) == 1 {
			address = publicStore
		}
	} else if address == "" {
		known = false
		m.Header.RCode = dnsmessage.RCodeNameError
	}
	if known && m.Questions[0].Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
		}}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// makeCertificate makes a certificate for everything, signed by itself, and writes it where it will be believed.
func makeCertificate(t *testing.T, file string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"public.example", "private.example", "loop.example", "rebind.example", "mixed.example", "registry.example", "localhost"}}
	for _, ip := range []string{"127.0.0.1", "::1", "64:ff9b::7f00:1", "fd00::8", publicRegistry, publicStore, privateRegistry, privateStore, metadata} {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve serves HTTPS at an address.
func (w *internet) serve(t *testing.T, address string, handler http.Handler) {
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{w.certificate}}))
	}()
	t.Cleanup(func() { _ = server.Close() })
}

// hubAt is a registry by plain HTTP.
func (w *internet) hubAt(t *testing.T, address string) *hub {
	h := &hub{t: t, host: address}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		answer := h.answer
		h.mu.Unlock()
		if answer == nil || !answer(w, r) {
			inner.ServeHTTP(w, r)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return h
}

// open opens a cache for which all registries are listed.
func (w *internet) open(t *testing.T) *cache.Cache {
	return open(t, func(o *cache.Options) {
		o.InsecureRegistries = []string{"127.0.0.1:5000", privateRegistry + ":5000", publicRegistry + ":5000", "registry.example:5000"}
	})
}

// targets are hosts, and how near they are: 0 public, 1 private, 2 this host, 3 nowhere.
var targets = map[string]int{
	"https://public.example": 0, "https://" + publicStore: 0,
	"https://private.example": 1, "https://" + privateStore: 1, "https://[fd00::8]": 1,
	"https://loop.example": 2, "https://127.0.0.1": 2, "https://[::1]": 2, "https://localhost": 2,
	"https://[::ffff:127.0.0.1]": 2, "https://[64:ff9b::7f00:1]": 2, "https://nobody.example": 3,
	"https://127.1": 3, "https://0x7f000001": 3, "https://2130706433": 3, "https://0.0.0.0": 3, "https://[::]": 3,
	"https://" + metadata: 3, "https://mixed.example": 3,
	"http://public.example": 3, "http://8.8.4.4:443": 3, "http://127.0.0.1:443": 3, "ftp://public.example": 3, "file:///etc/passwd": 3,
}

func (w *internet) redirects(t *testing.T) {
	for name, rank := range map[string]int{"public": 0, "private": 1, "loopback": 2} {
		h, c := w.registries[name], w.open(t)
		image := h.push("app:1", imageOf(t, layerOf(t, nil, "v", "1")))
		for _, what := range []string{"/manifests/", "/blobs/", "/v2/"} {
			for target, targetRank := range targets {
				t.Run(name+what+target, func(t *testing.T) {
					w.store.seen(func(response http.ResponseWriter, r *http.Request) {
						if strings.HasPrefix(r.URL.Path, "/latest/") {
							_, _ = io.WriteString(response, "secret")
						}
					})
					h.intercept(func(response http.ResponseWriter, r *http.Request) bool {
						lead := strings.Contains(r.URL.Path, what) && what != "/v2/" || r.URL.Path == what
						if lead {
							http.Redirect(response, r, target+"/latest/meta-data", http.StatusTemporaryRedirect)
						}
						return lead
					})
					_, err := c.Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
					if what == "/v2/" && err == nil {
						require.LessOrEqual(t, targetRank, rank)
						return // it answered, so the library goes on
					}
					require.Error(t, err)
					require.NotEqual(t, fault.System, fault.ClassOf(err), "%v", err)
					for _, part := range []string{"secret", "2bb80d53", "sha256:e3b0", "/latest", "meta-data"} {
						require.NotContains(t, err.Error(), part)
					}
					if visits := w.store.seen(nil); targetRank > rank {
						require.Empty(t, visits, "%v", err)
					} else {
						require.NotEmpty(t, visits, "%v", err)
					}
				})
			}
		}
		h.intercept(nil)
	}
}

// tokens: who gives out tokens is chosen by the registry, too.
func (w *internet) tokens(t *testing.T) {
	h := w.registries["public"]
	h.intercept(nil)
	image := h.push("tokens:1", imageOf(t, layerOf(t, nil, "v", "1")))
	challenge := func(realm string) func(http.ResponseWriter, *http.Request) bool {
		return func(response http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == "Bearer good" {
				return false
			}
			response.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="hub"`, realm))
			response.WriteHeader(http.StatusUnauthorized)
			return true
		}
	}
	request := cache.Request{Image: image, PullPolicy: "always", Holder: "al-1",
		Credentials: []cache.Credentials{{Registry: h.host, Username: "ci", Password: "hunter2"}}}
	for target, rank := range targets {
		w.store.seen(func(response http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(response, `{"token": "good"}`)
		})
		h.intercept(challenge(target + "/token"))
		_, err := w.open(t).Base(t.Context(), request, nil)
		visits := w.store.seen(nil)
		if rank == 0 {
			require.NoError(t, err, target)
			require.NotEmpty(t, visits, target)
			continue
		}
		require.Error(t, err, target)
		require.NotEqual(t, fault.System, fault.ClassOf(err), "%v", err)
		require.Empty(t, visits, target)
	}
	t.Run("that redirect get no password", func(t *testing.T) {
		w.store.seen(func(response http.ResponseWriter, r *http.Request) {
			if r.Host == "public.example" {
				http.Redirect(response, r, "https://"+publicStore+"/token", http.StatusTemporaryRedirect)
				return
			}
			_, _ = io.WriteString(response, `{"token": "good"}`)
		})
		h.intercept(challenge("https://public.example/token"))
		_, err := w.open(t).Base(t.Context(), request, nil)
		require.NoError(t, err)
		sent := strings.Join(w.store.seen(nil), "\n")
		require.Contains(t, sent, "public.example/token Basic ")
		require.Contains(t, sent, publicStore+"/token \n")
		require.NotContains(t, sent, publicStore+"/token Basic")
	})
	t.Run("with too much to say", func(t *testing.T) {
		w.store.seen(func(response http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(response, `{"secret": "`+strings.Repeat("s3cret", 1<<20))
		})
		h.intercept(challenge("https://public.example/token"))
		_, err := w.open(t).Base(t.Context(), request, nil)
		require.Equal(t, fault.Author, fault.ClassOf(err), "%v", err)
		require.NotContains(t, err.Error(), "s3cret")
	})
	h.intercept(nil)
}

func (w *internet) rebinding(t *testing.T) {
	h := w.registries["public"]
	image := h.push("rebind:1", imageOf(t, layerOf(t, nil, "v", "1")))
	w.rebound.Store(0)
	w.store.seen(func(response http.ResponseWriter, r *http.Request) {
		response.Header().Set("Connection", "close")
		response.WriteHeader(http.StatusServiceUnavailable)
	})
	h.intercept(func(response http.ResponseWriter, r *http.Request) bool {
		lead := strings.Contains(r.URL.Path, "/manifests/")
		if lead {
			http.Redirect(response, r, "https://rebind.example/x", http.StatusFound)
		}
		return lead
	})
	defer h.intercept(nil)
	_, err := w.open(t).Base(t.Context(), cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "leads to rebind.example: it is this runner's own host")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	require.Greater(t, w.rebound.Load(), int32(1), "it was asked for again")
	require.Len(t, w.store.seen(nil), 1, "at its first address")
}

// direct: what images name themselves.
func (w *internet) direct(t *testing.T) {
	c := w.open(t)
	w.store.seen(func(response http.ResponseWriter, _ *http.Request) { response.WriteHeader(http.StatusTeapot) })
	for _, host := range []string{"127.0.0.1:443", "localhost:443", "LOCALHOST:443", "loop.example", "loop.example:443", "[::1]:443", "[::ffff:127.0.0.1]:443",
		"[64:ff9b::7f00:1]:443", "127.1:443", "0x7f.1:443", "2130706433:443", "0.0.0.0:443", "localhost.:443", "x.localhost:443", metadata, "mixed.example:443"} {
		_, err := c.Base(t.Context(), cache.Request{Image: host + "/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
		require.Error(t, err, host)
		require.NotEqual(t, fault.System, fault.ClassOf(err), "%s: %v", host, err)
		require.Empty(t, w.store.seen(func(response http.ResponseWriter, _ *http.Request) { response.WriteHeader(http.StatusTeapot) }), host)
	}
	for _, host := range []string{"private.example", privateStore + ":443", "public.example"} {
		_, err := c.Base(t.Context(), cache.Request{Image: host + "/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
		require.ErrorContains(t, err, "418", host)
	}
	_, err := c.Base(t.Context(), cache.Request{Image: "nobody.example/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "there is no such host")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	h := w.registries["loopback"]
	image := h.push("listed:1", imageOf(t, layerOf(t, nil, "v", "1")))
	get(t, c, cache.Request{Image: image, PullPolicy: "always", Holder: "al-1"})
}

// proxied: an administrator's proxy may be anywhere, but what it is asked for may not.
func (w *internet) proxied(t *testing.T) {
	var asked []string
	var mu sync.Mutex
	proxy := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(response http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.Host)
		mu.Unlock()
		upstream, err := net.Dial("tcp", r.Host)
		if err != nil {
			response.WriteHeader(http.StatusBadGateway)
			return
		}
		defer upstream.Close()
		response.WriteHeader(http.StatusOK)
		down, _, err := response.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		go func() { _, _ = io.Copy(upstream, down) }()
		_, _ = io.Copy(down, upstream)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:3128")
	require.NoError(t, err)
	go func() { _ = proxy.Serve(listener) }()
	t.Cleanup(func() { _ = proxy.Close() })
	c := w.open(t)
	cache.UseProxy(c, func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme == "https" {
			return &url.URL{Scheme: "http", Host: "127.0.0.1:3128"}, nil
		}
		return nil, nil
	})
	w.store.seen(func(response http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			http.Redirect(response, r, "https://"+privateStore+"/secret", http.StatusFound)
		}
	})
	_, err = c.Base(t.Context(), cache.Request{Image: "public.example/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
	require.ErrorContains(t, err, "leads to "+privateStore+": its address is private")
	for _, host := range []string{"127.0.0.1:443", "localhost:443", "127.1:443", metadata} {
		_, err = c.Base(t.Context(), cache.Request{Image: host + "/app:1", PullPolicy: "always", Holder: "al-1"}, nil)
		require.Error(t, err)
	}
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, asked)
	for _, request := range asked { // as often as connections were made
		require.Equal(t, "CONNECT public.example:443", request)
	}
}
