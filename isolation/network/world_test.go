//go:build linux

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/ownthread"
	"github.com/airlock-ci/airlock/isolation"
)

// The world around the sandboxes: an "internet" and a private network, each a namespace with a veth to the host.
const (
	hostWAN    = "198.51.100.1"
	internet   = "198.51.100.254"
	hostLAN    = "10.77.0.1"
	lanServer  = "10.77.0.2"
	lanDNS     = "10.77.0.53"
	metadata   = "169.254.169.254"
	testSubnet = "172.29.0.0/24"
	gateway    = "172.29.0.1"
)

// place is a namespace of the test's own.
type place struct{ ns *namespace }

type world struct{ internet, lan place }

// newWorld makes the namespaces, and services on TCP and UDP ports 53 and 80 of every address outside the sandboxes,
// and on port 80 of the host's.
func newWorld(t *testing.T) world {
	t.Helper()
	w := world{internet: newPlace(t), lan: newPlace(t)}
	w.internet.connect(t, "wan0", hostWAN, internet)
	w.lan.connect(t, "lan0", hostLAN, lanServer, lanDNS, metadata)
	// Both could answer a sandbox that was not masqueraded: only the rules keep it from them.
	for _, p := range []place{w.internet, w.lan} {
		gw := hostWAN
		if p == w.lan {
			gw = hostLAN
		}
		require.NoError(t, p.ns.links.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw), Dst: cidr("0.0.0.0/0")}))
		p.in(t, func() { serve(t, 53); serve(t, 80) })
	}
	lan, err := netlink.LinkByName("lan0")
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lan.Attrs().Index, Dst: cidr(metadata + "/32")}))
	wan, err := netlink.LinkByName("wan0")
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: wan.Attrs().Index, Gw: net.ParseIP(internet), Dst: cidr("0.0.0.0/0")}))
	serve(t, 80)
	return w
}

func newPlace(t *testing.T) place {
	ns, err := newNamespace()
	require.NoError(t, err)
	t.Cleanup(func() { ns.links.Close(); _ = ns.file.Close() })
	return place{ns}
}

// connect joins a namespace to the host: name and hostAddr on the host, eth0 with addrs inside.
func (p place) connect(t *testing.T, name, hostAddr string, addrs ...string) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(p.ns.file.Fd())
	require.NoError(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	require.NoError(t, netlink.AddrAdd(veth, &netlink.Addr{IPNet: cidr(hostAddr + "/24")}))
	require.NoError(t, netlink.LinkSetUp(veth))
	peer, err := p.ns.links.LinkByName("eth0")
	require.NoError(t, err)
	for _, addr := range addrs {
		require.NoError(t, p.ns.links.AddrAdd(peer, &netlink.Addr{IPNet: cidr(addr + "/24")}))
	}
	require.NoError(t, p.ns.links.LinkSetUp(peer))
	require.NoError(t, awaitCarrier(t.Context(), veth.Index, netlink.LinkByIndex))
	require.NoError(t, awaitCarrier(t.Context(), peer.Attrs().Index, p.ns.links.LinkByIndex))
}

func (p place) in(t *testing.T, do func()) { t.Helper(); inside(t, p.ns.path(), do) }

// inside runs do on a thread in the namespace at path. Sockets opened there stay there.
func inside(t *testing.T, path string, do func()) {
	t.Helper()
	ns, err := os.Open(path)
	require.NoError(t, err)
	defer ns.Close()
	done := make(chan error, 1)
	ownthread.Go(func() {
		err := fmt.Errorf("the test ended in the namespace")
		defer func() { done <- err }()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			do()
		}
	})
	require.NoError(t, <-done)
}

func cidr(text string) *net.IPNet {
	ip, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}

// serve answers on a TCP and UDP port of every address of the current namespace, until the test ends: with one
// line on TCP, with the datagram itself on UDP.
func serve(t *testing.T, port int) {
	t.Helper()
	tcp, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	require.NoError(t, err)
	udp, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	require.NoError(t, err)
	t.Cleanup(func() { _ = tcp.Close(); _ = udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, conn.RemoteAddr())
			_ = conn.Close()
		}
	}()
	echo := ipv4.NewPacketConn(udp)
	require.NoError(t, echo.SetControlMessage(ipv4.FlagDst, true))
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, asked, from, err := echo.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(buffer[:n], &ipv4.ControlMessage{Src: asked.Dst}, from)
		}
	}()
}

// ask connects, on "tcp" or "udp", from the current namespace and returns what the service said. What is refused is
// refused at once; patience is for slow machines, and short where silence is the expected answer.
func ask(network, address string) (string, error) {
	return askPatiently(network, address, 5*time.Second)
}

func askPatiently(network, address string, patience time.Duration) (string, error) {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.Dial(network+"4", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if network == "udp" {
		if _, err := conn.Write([]byte("hello")); err != nil {
			return "", err
		}
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// silence is how long a test waits for what must not come.
const silence = 300 * time.Millisecond

// sandbox is an attached one.
type sandbox struct {
	isolation.Network
	id string
}

func (s sandbox) addr() netip.Addr { return netip.MustParsePrefix(s.Address).Addr() }

// reaches says whether a connection from the sandbox is answered. A refused datagram may go unanswered: the kernel
// limits its ICMP messages.
func (s sandbox) reaches(t *testing.T, network, address string) bool {
	t.Helper()
	var err error
	inside(t, s.NetNS, func() { _, err = ask(network, address) })
	return err == nil
}

// refused says whether a connection from the sandbox is refused or at least not answered.
func (s sandbox) refused(t *testing.T, network, address string) bool {
	t.Helper()
	var err error
	inside(t, s.NetNS, func() { _, err = askPatiently(network, address, silence) })
	return err != nil
}

func options(t *testing.T) Options {
	return Options{Bridge: "test0", Subnet: testSubnet, MaxConnections: 4096, DNS: []string{lanDNS}, Logger: zerolog.New(zerolog.NewTestWriter(t))}
}

// newManager returns a prepared Manager whose bridge and tables are removed with the test.
func newManager(t testing.TB, o Options) *Manager {
	t.Helper()
	m, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ids, err := m.Attached(context.Background())
		require.NoError(t, err)
		for _, id := range ids {
			require.NoError(t, m.Detach(context.Background(), id))
		}
		require.NoError(t, m.Remove(context.Background()))
	})
	require.NoError(t, m.Prepare(t.Context()))
	return m
}

func attach(t *testing.T, m *Manager, id string) sandbox {
	t.Helper()
	return attachAt(t, isolation.NetworkNamespace, m, id)
}

// attachAt attaches a sandbox in a form. The NetNS of one with a tap plays its guest.
func attachAt(t *testing.T, form isolation.NetworkForm, m *Manager, id string) sandbox {
	t.Helper()
	network, err := m.Attach(t.Context(), id, ModeNAT, form)
	require.NoError(t, err)
	if form == isolation.NetworkTap {
		network.NetNS = playGuest(t, network)
	}
	return sandbox{network, id}
}

// eachForm runs a test of what must hold for both forms alike.
func eachForm(t *testing.T, test func(t *testing.T, form isolation.NetworkForm)) {
	for _, form := range []isolation.NetworkForm{isolation.NetworkNamespace, isolation.NetworkTap} {
		t.Run(form.String(), func(t *testing.T) { test(t, form) })
	}
}

// playGuest does what a virtual machine does with a tap device: a namespace plays the guest, and frames are carried
// between the device's descriptor and an interface there, set up with what the guest would be told.
func playGuest(t *testing.T, network isolation.Network) (netns string) {
	t.Helper()
	guest := newPlace(t)
	var inner *os.File
	guest.in(t, func() {
		var err error
		inner, err = openTap("eth0")
		require.NoError(t, err)
	})
	t.Cleanup(func() { _ = inner.Close() })
	links := guest.ns.links
	link, err := links.LinkByName("eth0")
	require.NoError(t, err)
	mac, err := net.ParseMAC(network.MAC)
	require.NoError(t, err)
	require.NoError(t, links.LinkSetHardwareAddr(link, mac))
	require.NoError(t, links.LinkSetMTU(link, network.MTU))
	require.NoError(t, links.AddrAdd(link, &netlink.Addr{IPNet: cidr(network.Address)}))
	require.NoError(t, links.LinkSetUp(link))
	require.NoError(t, links.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(network.Gateway)}))
	go carry(inner, network.TapFile)
	go carry(network.TapFile, inner)
	return guest.ns.path()
}

// carry copies frames, each read being one, until either end is closed.
func carry(to, from *os.File) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err == nil {
			_, err = to.Write(buffer[:n])
		}
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADFD) {
			return
		}
	}
}

// packetSocket is a raw one on an interface of the current namespace, which a job could open only with NET_RAW.
func packetSocket(t *testing.T, name string) (fd int, index int) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	require.NoError(t, err)
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	return fd, link.Index
}

// inject sends a frame from the sandbox.
func (s sandbox) inject(t *testing.T, frame []byte) {
	t.Helper()
	inside(t, s.NetNS, func() {
		fd, index := packetSocket(t, "eth0")
		defer unix.Close(fd)
		require.NoError(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}))
	})
}

// frame is an Ethernet frame.
func frame(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

// datagram is a UDP packet in IPv4, without a UDP checksum.
func datagram(from, to string, port uint16, text string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4000)
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(append(udp, 0, 0), text...)
	header := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(header[2:], uint16(20+len(udp)))
	header = append(append(header, netip.MustParseAddr(from).AsSlice()...), netip.MustParseAddr(to).AsSlice()...)
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return append(header, udp...)
}

// arp is an ARP packet; operation 1 asks, 2 answers.
func arp(operation uint16, fromMAC net.HardwareAddr, from string, toMAC net.HardwareAddr, to string) []byte {
	p := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, operation)
	p = append(append(p, fromMAC...), netip.MustParseAddr(from).AsSlice()...)
	return append(append(p, toMAC...), netip.MustParseAddr(to).AsSlice()...)
}

// received returns the datagrams that come to a UDP port of the place while do runs, and a moment longer.
func (p place) received(t *testing.T, port int, do func()) []string {
	t.Helper()
	var conn net.PacketConn
	p.in(t, func() {
		var err error
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		require.NoError(t, err)
	})
	defer conn.Close()
	do()
	var texts []string
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	buffer := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return texts
		}
		texts = append(texts, string(buffer[:n]))
	}
}
