//go:build linux

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

func TestSandboxReachesTheInternetBehindTheHost(t *testing.T) {
	eachForm(t, sandboxReachesTheInternetBehindTheHost)
}

func sandboxReachesTheInternetBehindTheHost(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	s := attachAt(t, form, newManager(t, options(t)), "al-000000000001")
	inside(t, s.NetNS, func() {
		seen, err := ask("tcp", internet+":80")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(seen, hostWAN+":"), "the server saw %q", seen)
		_, err = ask("udp", internet+":80")
		require.NoError(t, err)
		require.True(t, answersPing(t, internet))
		require.False(t, answersPing(t, gateway), "the host")
		require.False(t, answersPing(t, lanServer))
	})
}

// answersPing sends an ICMP echo request from the current namespace.
func answersPing(t *testing.T, address string) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	require.NoError(t, err)
	defer unix.Close(fd)
	to := netip.MustParseAddr(address).As4()
	require.NoError(t, unix.Sendto(fd, echoRequest(7), 0, &unix.SockaddrInet4{Addr: to}))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 3 * silence.Microseconds()}))
	buffer := make([]byte, 128)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return false
		}
		const header = 20
		if n > header && buffer[header] == 0 && from.(*unix.SockaddrInet4).Addr == to { // type 0: an echo reply
			return true
		}
	}
}

// The first packet after Attach must pass: a lost one costs a job a second.
func TestNetworkIsReadyAtOnce(t *testing.T) { eachForm(t, networkIsReadyAtOnce) }

func networkIsReadyAtOnce(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	m := newManager(t, options(t))
	for i := range 20 {
		s := attachAt(t, form, m, fmt.Sprintf("al-%012x", i))
		inside(t, s.NetNS, func() {
			conn, err := net.Dial("tcp4", internet+":80")
			require.NoError(t, err)
			defer conn.Close()
			raw, err := conn.(*net.TCPConn).SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(fd uintptr) {
				info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				require.NoError(t, err)
				require.Zero(t, info.Total_retrans)
			}))
		})
		require.NoError(t, m.Detach(t.Context(), s.id)) // the bridge is without ports again
	}
}

// forbidden is all that a sandbox must not reach without an exception.
func forbidden() map[string]string {
	return map[string]string{
		"the gateway itself":   gateway + ":80",
		"the host's LAN side":  hostLAN + ":80",
		"the host's WAN side":  hostWAN + ":80",
		"a LAN service":        lanServer + ":80",
		"a LAN name server":    lanServer + ":53",
		"the DNS server's web": lanDNS + ":80",
		"cloud metadata":       metadata + ":80",
	}
}

func TestSandboxReachesNothingPrivate(t *testing.T) { eachForm(t, sandboxReachesNothingPrivate) }

func sandboxReachesNothingPrivate(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	m := newManager(t, options(t))
	s := attachAt(t, form, m, "al-000000000001")
	t.Run("refused at once", func(t *testing.T) {
		inside(t, s.NetNS, func() {
			for _, address := range []string{gateway + ":80", lanServer + ":80", metadata + ":80"} {
				_, err := ask("tcp", address)
				require.ErrorIs(t, err, unix.ECONNREFUSED)
			}
			var err error
			for range 20 { // the kernel sends few ICMP messages a second to one address
				if _, err = askPatiently("udp", metadata+":80", silence); errors.Is(err, unix.EHOSTUNREACH) {
					break
				}
			}
			require.ErrorIs(t, err, unix.EHOSTUNREACH)
		})
	})
	for name, address := range forbidden() {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(name+" "+network, func(t *testing.T) {
				_, err := ask(network, address)
				require.NoError(t, err, "the service must be there, or the test proves nothing")
				require.True(t, s.refused(t, network, address))
			})
		}
	}
	t.Run("only the rules prevent it", func(t *testing.T) {
		require.NoError(t, m.removeRules())
		for name, address := range forbidden() {
			require.True(t, s.reaches(t, "tcp", address), name)
		}
		ids, err := m.Attached(t.Context()) // as the reaper does every minute
		require.NoError(t, err)
		require.Equal(t, []string{s.id}, ids)
		for name, address := range forbidden() {
			require.True(t, s.refused(t, "tcp", address), name)
		}
		require.True(t, s.reaches(t, "tcp", internet+":80"))
	})
}

func TestNameServersAnswerOnPort53Only(t *testing.T) { eachForm(t, nameServersAnswerOnPort53Only) }

func nameServersAnswerOnPort53Only(t *testing.T, form isolation.NetworkForm) {
	newWorld(t)
	serve(t, 53)
	o := options(t)
	o.DNS = []string{lanDNS, gateway}
	o.DNSSearch = []string{"example.org"}
	o.ExtraHosts = []string{"registry:10.77.0.2"}
	s := attachAt(t, form, newManager(t, o), "al-000000000001")
	for _, server := range o.DNS {
		require.True(t, s.reaches(t, "udp", server+":53"), server)
		require.True(t, s.reaches(t, "tcp", server+":53"), server)
		require.True(t, s.refused(t, "udp", server+":80"), server)
		require.True(t, s.refused(t, "tcp", server+":80"), server)
	}
	require.True(t, s.refused(t, "udp", hostLAN+":53"), "another address of the host")
	require.Equal(t, o.DNS, s.Nameservers)
	require.Equal(t, o.DNSSearch, s.Search)
	require.Equal(t, []string{"10.77.0.2 registry"}, s.Hosts)
}

func TestAllowOpensExactlyWhatItNames(t *testing.T) {
	newWorld(t)
	cases := map[string][]string{ // entry: what it opens of the forbidden
		lanServer + ":80":   {"a LAN service"},
		lanServer:           {"a LAN service", "a LAN name server"},
		"10.0.0.0/8":        {"a LAN service", "a LAN name server", "the DNS server's web"},
		"10.77.0.0/24:80":   {"a LAN service", "the DNS server's web"},
		metadata + ":80":    {"cloud metadata"},
		"169.254.0.0/16":    {"cloud metadata"},
		"0.0.0.0/0":         {"a LAN service", "a LAN name server", "the DNS server's web"},
		hostLAN + ":80":     {"the host's LAN side"},
		gateway + ":80":     {"the gateway itself"},
		gateway + ":81":     {},
		hostWAN + "/32":     {"the host's WAN side"},
		lanServer + ":8080": {},
	}
	for entry, opened := range cases {
		t.Run(entry, func(t *testing.T) {
			o := options(t)
			o.Allow = []string{entry}
			s := attach(t, newManager(t, o), "al-000000000001")
			var reached []string
			for name, address := range forbidden() {
				if s.reaches(t, "tcp", address) {
					reached = append(reached, name)
				}
			}
			require.ElementsMatch(t, opened, reached)
		})
	}
}

func TestSandboxesCannotMeet(t *testing.T) { eachForm(t, sandboxesCannotMeet) }

func sandboxesCannotMeet(t *testing.T, form isolation.NetworkForm) {
	w := newWorld(t)
	o := options(t)
	o.Allow = []string{"172.16.0.0/12"} // not even then
	m := newManager(t, o)
	a, b := attachAt(t, form, m, "al-00000000000a"), attachAt(t, form, m, "al-00000000000b")
	inside(t, b.NetNS, func() { serve(t, 80) })
	require.True(t, b.reaches(t, "tcp", b.addr().String()+":80"))
	require.True(t, a.refused(t, "tcp", b.addr().String()+":80"))

	macA, macB, gatewayMAC := macOf(a.addr()), macOf(b.addr()), macOf(netip.MustParseAddr(gateway))
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	whoHas := frame(broadcast, macA, unix.ETH_P_ARP, arp(1, macA, a.addr().String(), make([]byte, 6), b.addr().String()))
	direct := frame(macB, macA, unix.ETH_P_IP, datagram(a.addr().String(), b.addr().String(), 9, "direct"))
	byGateway := frame(gatewayMAC, macA, unix.ETH_P_IP, datagram(a.addr().String(), b.addr().String(), 9, "routed"))

	t.Run("by any frame", func(t *testing.T) {
		require.Empty(t, b.sees(t, func() {
			for _, f := range [][]byte{whoHas, direct, byGateway} {
				a.inject(t, f)
			}
		}))
	})
	t.Run("by the outside", func(t *testing.T) {
		w.internet.in(t, func() {
			for _, network := range []string{"tcp", "udp"} {
				_, err := askPatiently(network, b.addr().String()+":80", silence)
				require.Error(t, err)
			}
		})
		_, err := ask("tcp", b.addr().String()+":80")
		require.NoError(t, err, "the host itself may")
	})
	t.Run("only isolation and the rules prevent it", func(t *testing.T) {
		for _, s := range []sandbox{a, b} {
			link, err := netlink.LinkByName(portName("test0", s.id))
			require.NoError(t, err)
			require.NoError(t, netlink.LinkSetIsolated(link, false))
		}
		require.NotEmpty(t, b.sees(t, func() { a.inject(t, whoHas) }))
		require.NoError(t, m.removeRules()) // with br_netfilter they see bridged packets too
		require.NotEmpty(t, b.sees(t, func() { a.inject(t, direct) }))
		require.NotEmpty(t, b.sees(t, func() { a.inject(t, byGateway) }))
	})
}

// sees returns the frames of others that arrive at the sandbox while do runs, and a moment longer. The host may look
// for the sandbox by ARP at any time: that is left out.
func (s sandbox) sees(t *testing.T, do func()) [][]byte {
	t.Helper()
	var fd int
	inside(t, s.NetNS, func() { fd, _ = packetSocket(t, "eth0") })
	defer unix.Close(fd)
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: silence.Microseconds()}))
	do()
	var frames [][]byte
	buffer := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return frames
		}
		from, kind := net.HardwareAddr(buffer[6:12]).String(), binary.BigEndian.Uint16(buffer[12:])
		hostARP := from == macOf(netip.MustParseAddr(gateway)).String() && kind == unix.ETH_P_ARP
		if from != s.MAC && !hostARP {
			frames = append(frames, append([]byte{}, buffer[:n]...))
		}
	}
}

func TestForgedSourcesAreDropped(t *testing.T) { eachForm(t, forgedSourcesAreDropped) }

func forgedSourcesAreDropped(t *testing.T, form isolation.NetworkForm) {
	w := newWorld(t)
	m := newManager(t, options(t))
	a, b := attachAt(t, form, m, "al-00000000000a"), attachAt(t, form, m, "al-00000000000b")
	macA, macB, gatewayMAC := macOf(a.addr()), macOf(b.addr()), macOf(netip.MustParseAddr(gateway))
	ipA, ipB := a.addr().String(), b.addr().String()
	tagged := append([]byte{0, 5, 8, 0}, datagram(ipA, internet, 9, "tagged")...)
	texts := w.internet.received(t, 9, func() {
		a.inject(t, frame(gatewayMAC, macA, unix.ETH_P_IP, datagram(ipB, internet, 9, "neighbour's IP")))
		a.inject(t, frame(gatewayMAC, macA, unix.ETH_P_IP, datagram("8.8.8.8", internet, 9, "foreign IP")))
		a.inject(t, frame(gatewayMAC, macB, unix.ETH_P_IP, datagram(ipA, internet, 9, "neighbour's MAC")))
		a.inject(t, frame(gatewayMAC, macB, unix.ETH_P_IP, datagram(ipB, internet, 9, "neighbour's both")))
		a.inject(t, frame(gatewayMAC, macA, unix.ETH_P_8021Q, tagged))
		a.inject(t, frame(gatewayMAC, macA, unix.ETH_P_IP, datagram(ipA, internet, 9, "honest")))
	})
	require.Equal(t, []string{"honest"}, texts)

	t.Run("in ARP", func(t *testing.T) {
		for _, ip := range []string{ipA, ipB} {
			_, err := ask("tcp", ip+":80") // the host learns where they are
			require.ErrorIs(t, err, unix.ECONNREFUSED)
		}
		for _, forged := range [][]byte{
			frame(gatewayMAC, macA, unix.ETH_P_ARP, arp(2, macA, ipB, gatewayMAC, gateway)),
			frame(gatewayMAC, macB, unix.ETH_P_ARP, arp(2, macA, ipB, gatewayMAC, gateway)),
			frame(gatewayMAC, macA, unix.ETH_P_ARP, arp(1, macA, ipB, make([]byte, 6), gateway)),
			frame(gatewayMAC, macA, unix.ETH_P_ARP, arp(1, macB, ipA, make([]byte, 6), gateway)),
		} {
			a.inject(t, forged)
		}
		require.Equal(t, macB.String(), hostNeighbour(t, ipB))
		require.Equal(t, macA.String(), hostNeighbour(t, ipA))
	})
	t.Run("only the rules prevent it", func(t *testing.T) {
		tx, err := transaction()
		require.NoError(t, err)
		tx.DelTable(&nftables.Table{Name: "test0", Family: nftables.TableFamilyBridge})
		require.NoError(t, tx.Flush())
		a.inject(t, frame(gatewayMAC, macA, unix.ETH_P_ARP, arp(1, macA, ipB, make([]byte, 6), gateway)))
		require.Equal(t, macA.String(), hostNeighbour(t, ipB))
	})
}

// The host's own stack never sees what a sandbox may not send.
func TestOnlyIPv4ComesIn(t *testing.T) { eachForm(t, onlyIPv4ComesIn) }

func onlyIPv4ComesIn(t *testing.T, form isolation.NetworkForm) {
	s := attachAt(t, form, newManager(t, options(t)), "al-000000000001")
	fd, _ := packetSocket(t, "test0")
	defer unix.Close(fd)
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: silence.Microseconds()}))
	mac, gatewayMAC := macOf(s.addr()), macOf(netip.MustParseAddr(gateway))
	honest := datagram(s.addr().String(), gateway, 9, "honest")
	advertisement := append([]byte{0x60, 0, 0, 0, 0, 8, unix.IPPROTO_ICMPV6, 255}, make([]byte, 40)...)
	for _, f := range [][]byte{
		frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6, advertisement),
		frame(gatewayMAC, mac, unix.ETH_P_IPV6, advertisement),
		frame(gatewayMAC, mac, unix.ETH_P_8021Q, append([]byte{0, 5, 8, 0}, honest...)),
		frame(gatewayMAC, mac, unix.ETH_P_8021AD, append([]byte{0, 5, 0x81, 0, 0, 5, 8, 0}, honest...)),
		frame(gatewayMAC, mac, 40, make([]byte, 60)), // IEEE 802.3 with a length
		frame(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}, mac, 38, append([]byte{0x42, 0x42, 3}, make([]byte, 60)...)),
		frame(gatewayMAC, mac, unix.ETH_P_IP, honest),
	} {
		s.inject(t, f)
	}
	var kinds []string
	buffer := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			break
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		require.Equal(t, s.MAC, net.HardwareAddr(buffer[6:12]).String())
		if kind := binary.BigEndian.Uint16(buffer[12:]); kind != unix.ETH_P_ARP {
			kinds = append(kinds, fmt.Sprintf("%#x %d", kind, n))
		}
	}
	require.Equal(t, []string{fmt.Sprintf("0x800 %d", 14+len(honest))}, kinds)
}

func hostNeighbour(t *testing.T, ip string) string {
	t.Helper()
	bridge, err := netlink.LinkByName("test0")
	require.NoError(t, err)
	neighbours, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	require.NoError(t, err)
	for _, n := range neighbours {
		if n.IP.String() == ip {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// A server may keep sending to a connection whose sandbox is gone. The next sandbox with that address must not get it.
func TestConnectionsEndWithTheirSandbox(t *testing.T) { eachForm(t, connectionsEndWithTheirSandbox) }

func connectionsEndWithTheirSandbox(t *testing.T, form isolation.NetworkForm) {
	w := newWorld(t)
	o := options(t)
	m := newManager(t, o)
	s := attachAt(t, form, m, "al-000000000001")
	var server net.PacketConn
	var seenAs net.Addr
	w.internet.in(t, func() {
		var err error
		server, err = net.ListenPacket("udp4", ":9")
		require.NoError(t, err)
	})
	defer server.Close()
	listen := func(s sandbox) (conn *net.UDPConn) {
		inside(t, s.NetNS, func() {
			var err error
			conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4000})
			require.NoError(t, err)
		})
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	hears := func(conn *net.UDPConn) bool {
		_, err := server.WriteTo([]byte("late"), seenAs)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(silence)))
		_, _, err = conn.ReadFrom(make([]byte, 16))
		return err == nil
	}
	first := listen(s)
	_, err := first.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(internet), Port: 9})
	require.NoError(t, err)
	_, seenAs, err = server.ReadFrom(make([]byte, 16))
	require.NoError(t, err)
	require.True(t, hears(first))

	_ = first.Close()
	require.NoError(t, m.Detach(t.Context(), s.id))
	m.pool = newAddresses(m.subnet) // so that the next gets the same address
	next := attachAt(t, form, m, "al-000000000002")
	require.Equal(t, s.Address, next.Address)
	require.False(t, hears(listen(next)))
}

func TestModeNoneHasNothingButLoopback(t *testing.T) {
	m := newManager(t, options(t))
	network, err := m.Attach(t.Context(), "al-000000000001", ModeNone, isolation.NetworkNamespace)
	require.NoError(t, err)
	require.Equal(t, isolation.Network{NetNS: network.NetNS}, network)
	inside(t, network.NetNS, func() {
		links, err := net.Interfaces()
		require.NoError(t, err)
		require.Len(t, links, 1)
		require.NotZero(t, links[0].Flags&net.FlagUp)
		serve(t, 80)
		_, err = ask("tcp", "127.0.0.1:80")
		require.NoError(t, err)
		_, err = net.Dial("tcp4", internet+":80")
		require.ErrorIs(t, err, unix.ENETUNREACH)
	})
	ids, err := m.Attached(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"al-000000000001"}, ids)
}

func TestHostHasNoIPv6TowardsSandboxes(t *testing.T) { eachForm(t, hostHasNoIPv6TowardsSandboxes) }

func hostHasNoIPv6TowardsSandboxes(t *testing.T, form isolation.NetworkForm) {
	m := newManager(t, options(t))
	s := attachAt(t, form, m, "al-000000000001")
	for _, name := range []string{"test0", portName("test0", s.id)} {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		require.NoError(t, err)
		require.Empty(t, addrs, name)
	}
}

func TestSandboxInterface(t *testing.T) { eachForm(t, sandboxInterface) }

func sandboxInterface(t *testing.T, form isolation.NetworkForm) {
	m := newManager(t, options(t))
	s := attachAt(t, form, m, "al-000000000001")
	require.Equal(t, gateway, s.Gateway)
	require.True(t, netip.MustParsePrefix(testSubnet).Contains(s.addr()))
	inside(t, s.NetNS, func() {
		eth0, err := net.InterfaceByName("eth0")
		require.NoError(t, err)
		require.Equal(t, s.MAC, eth0.HardwareAddr.String())
		addrs, err := eth0.Addrs()
		require.NoError(t, err)
		require.Len(t, addrs, 1, "no IPv6")
		require.Equal(t, s.Address, addrs[0].String())
		ipv6, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(ipv6), "\n"), "::1 alone: %s", ipv6)
	})
}
