//go:build linux

package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// tracked are the entries of the host's table of connections that come from an address or lead to it.
func tracked(t *testing.T, addr netip.Addr) (entries []*netlink.ConntrackFlow) {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	require.NoError(t, err)
	ip := net.IP(addr.AsSlice())
	for _, f := range flows {
		if f.Forward.SrcIP.Equal(ip) || f.Forward.DstIP.Equal(ip) || f.Reverse.SrcIP.Equal(ip) {
			entries = append(entries, f)
		}
	}
	return entries
}

// send sends n datagrams from the current namespace, each a connection of its own: to port after port of an address.
func send(t *testing.T, address string, n int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	to := netip.MustParseAddr(address).As4()
	for i := range n {
		// What is refused makes the next call fail, and limits of the sender's own do not matter.
		_ = unix.Sendto(fd, []byte("x"), unix.MSG_DONTWAIT, &unix.SockaddrInet4{Port: 1000 + i, Addr: to})
	}
}

// sendEchoes sends n ICMP echo requests, each with an identifier of its own.
func sendEchoes(t *testing.T, address string, n int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	require.NoError(t, err)
	defer unix.Close(fd)
	to := netip.MustParseAddr(address).As4()
	for i := range n {
		_ = unix.Sendto(fd, echoRequest(uint16(i)), unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: to})
	}
}

// echoRequest is an ICMP echo request with an identifier, which must be small.
func echoRequest(identifier uint16) []byte {
	echo := []byte{8, 0, 0, 0, byte(identifier >> 8), byte(identifier), 0, 1}
	binary.BigEndian.PutUint16(echo[2:], ^(8<<8 + identifier + 1)) // the sum is too small to carry
	return echo
}

// startConnecting sends the first packet of n TCP connections, and takes each back at once.
func startConnecting(t *testing.T, address string, n int) {
	t.Helper()
	to := netip.MustParseAddr(address).As4()
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		require.NoError(t, err)
		_ = unix.Connect(fd, &unix.SockaddrInet4{Port: 80 + i%2, Addr: to})
		require.NoError(t, unix.Close(fd))
	}
}

// connectAndClose opens up to n connections one after the other and closes each in order, so that the host remembers it for
// minutes. It gives up when one is held back.
func connectAndClose(address string, n int) (opened int) {
	for ; opened < n; opened++ {
		conn, err := (&net.Dialer{Timeout: 3 * silence}).Dial("tcp4", address)
		if err != nil {
			break
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	return opened
}

// fewConnections is the bound of these tests; a minute brings twice as many more, so they allow for three.
const fewConnections = 60

func TestSandboxCannotFillTheHostsConnections(t *testing.T) {
	eachForm(t, sandboxCannotFillTheHostsConnections)
}

func sandboxCannotFillTheHostsConnections(t *testing.T, form isolation.NetworkForm) {
	w := newWorld(t)
	o := options(t)
	o.MaxConnections = fewConnections
	o.Allow = []string{lanServer + ":80", gateway + ":80"}
	m := newManager(t, o)
	other := attachAt(t, form, m, "al-0000000000ff")
	const flood = 10 * fewConnections
	for n, c := range []struct {
		name string
		// open says that the connections stay open, so that never more than the bound are there.
		open bool
		run  func()
	}{
		{"datagrams to the internet", true, func() { send(t, internet, flood) }},
		{"datagrams to many addresses", true, func() {
			for i := range flood {
				send(t, fmt.Sprintf("198.51.100.%d", 2+i%250), 1+i/250)
			}
		}},
		{"echo requests", true, func() { sendEchoes(t, internet, flood) }},
		{"connections that begin", false, func() { startConnecting(t, internet, flood) }},
		{"connections that end", false, func() { connectAndClose(internet+":80", flood) }},
		{"an exception", false, func() { connectAndClose(lanServer+":80", flood) }},
		{"the host's own exception", false, func() { connectAndClose(gateway+":80", flood) }},
		{"a name server", true, func() {
			for range flood {
				conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(lanDNS), Port: 53})
				require.NoError(t, err)
				_, _ = conn.Write([]byte("x"))
				_ = conn.Close()
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attachAt(t, form, m, fmt.Sprintf("al-%012x", n))
			var kept net.Conn
			w.internet.in(t, func() { serveEcho(t, 7) })
			inside(t, a.NetNS, func() {
				var err error
				kept, err = net.Dial("tcp4", internet+":7")
				require.NoError(t, err)
			})
			defer kept.Close()
			requireEcho(t, kept)
			inside(t, a.NetNS, c.run)
			most := 3 * fewConnections
			if c.open {
				most = fewConnections
			}
			require.Eventually(t, func() bool { return len(tracked(t, a.addr())) > fewConnections/2 }, 10*time.Second, silence/10, "or nothing was tried")
			requireEcho(t, kept) // on its way behind the flood
			require.LessOrEqual(t, len(tracked(t, a.addr())), most)
			require.True(t, other.reaches(t, "tcp", internet+":80"), "the others' go on")
			require.True(t, other.reaches(t, "udp", lanDNS+":53"))
			_ = kept.Close()
			require.NoError(t, m.Detach(t.Context(), a.id))
			require.Empty(t, tracked(t, a.addr()))
		})
	}
}

// A sandbox that is refused must not fill the table with that, nor use up what is for real connections.
func TestWhatIsRefusedIsNoConnection(t *testing.T) { eachForm(t, whatIsRefusedIsNoConnection) }

func whatIsRefusedIsNoConnection(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	o := options(t)
	o.MaxConnections = fewConnections
	m := newManager(t, o)
	a, b := attachAt(t, form, m, "al-00000000000a"), attachAt(t, form, m, "al-00000000000b")
	const flood = 10 * fewConnections
	inside(t, a.NetNS, func() {
		for _, address := range []string{gateway, hostWAN, lanServer, metadata, b.addr().String()} {
			send(t, address, flood)
			sendEchoes(t, address, flood/10)
			startConnecting(t, address, flood)
		}
	})
	mac, gatewayMAC := macOf(a.addr()), macOf(netip.MustParseAddr(gateway))
	inside(t, a.NetNS, func() { // as somebody else: see TestForgedSourcesAreDropped
		fd, index := packetSocket(t, "eth0")
		defer unix.Close(fd)
		for i := range flood {
			for _, from := range []string{b.addr().String(), fmt.Sprintf("203.0.113.%d", 1+i%250)} {
				packet := frame(gatewayMAC, mac, unix.ETH_P_IP, datagram(from, internet, uint16(1000+i), "forged"))
				require.NoError(t, unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Ifindex: index}))
			}
		}
	})
	for _, s := range []sandbox{a, b} {
		require.Empty(t, tracked(t, s.addr()))
	}
	require.Empty(t, tracked(t, netip.MustParseAddr("203.0.113.1")))
	inside(t, a.NetNS, func() { require.Equal(t, fewConnections, connectAndClose(internet+":80", fewConnections)) })
}

// A new sandbox owes nothing for who had its address.
func TestConnectionsAreCountedForOneSandbox(t *testing.T) {
	eachForm(t, connectionsAreCountedForOneSandbox)
}

func connectionsAreCountedForOneSandbox(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	o := options(t)
	o.MaxConnections = fewConnections
	m := newManager(t, o)
	var last sandbox
	for n := range 2 {
		m.pool = newAddresses(m.subnet) // so that the next gets the same address
		s := attachAt(t, form, m, fmt.Sprintf("al-%012x", n))
		require.True(t, n == 0 || s.Address == last.Address)
		inside(t, s.NetNS, func() {
			require.Equal(t, fewConnections, connectAndClose(internet+":80", fewConnections))
		})
		require.NoError(t, m.Detach(t.Context(), s.id))
		last = s
	}
	out := rules(t)
	require.NotContains(t, out, last.addr().String(), "neither set remembers the address")
}

// What a server or a job holds open for long must not cost others anything: the bound is on what is open.
func TestClosedConnectionsMakeRoom(t *testing.T) {
	w := newWorld(t)
	o := options(t)
	o.MaxConnections = fewConnections
	m := newManager(t, o)
	s := attach(t, m, "al-000000000001")
	w.internet.in(t, func() { serveEcho(t, 7) })
	open := func(n int) (conns []net.Conn) {
		inside(t, s.NetNS, func() {
			for range n {
				conn, err := (&net.Dialer{Timeout: silence, Control: resetOnClose}).Dial("tcp4", internet+":7")
				if err == nil {
					conns = append(conns, conn)
				}
			}
		})
		return conns
	}
	half := open(fewConnections / 2)
	require.Len(t, half, fewConnections/2)
	for _, conn := range half {
		require.NoError(t, conn.Close())
	}
	rest := open(fewConnections / 2)
	require.Len(t, rest, fewConnections/2)
	for _, conn := range rest {
		requireEcho(t, conn)
		require.NoError(t, conn.Close())
	}
}

func resetOnClose(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// serveEcho answers on a TCP port of the current namespace with what it is told, until the test ends.
func serveEcho(t *testing.T, port int) {
	t.Helper()
	listener, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			go func() {
				buffer := make([]byte, 64)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					_, _ = conn.Write(buffer[:n])
				}
			}()
		}
	}()
}

func requireEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	_, err := conn.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 64))
	require.NoError(t, err)
}
