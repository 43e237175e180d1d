package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
)

// guestLink is the guest's one interface, by the kernel's own naming.
const guestLink = "eth0"

// attachNetwork configures the interface, by the ioctls of netdevice(7). A guest without a network has none.
func (s GuestSetup) attachNetwork() error {
	if s.Network == nil {
		return nil
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	mac, err := net.ParseMAC(s.Network.MAC)
	if err != nil || len(mac) != 6 {
		return fmt.Errorf("%w: MAC address %q", frame.ErrProtocol, s.Network.MAC)
	}
	address, err := netip.ParsePrefix(s.Network.Address)
	if err != nil || !address.Addr().Is4() {
		return fmt.Errorf("%w: address %q", frame.ErrProtocol, s.Network.Address)
	}
	if err := setMAC(socket, mac); err != nil {
		return fmt.Errorf("MAC address %s: %w", mac, err)
	}
	if s.Network.MTU != 0 {
		if err := setMTU(socket, s.Network.MTU); err != nil {
			return fmt.Errorf("MTU %d: %w", s.Network.MTU, err)
		}
	}
	if err := setAddress(socket, unix.SIOCSIFADDR, address.Addr()); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	mask := netip.AddrFrom4([4]byte(net.CIDRMask(address.Bits(), 32)))
	if err := setAddress(socket, unix.SIOCSIFNETMASK, mask); err != nil {
		return fmt.Errorf("netmask %s: %w", mask, err)
	}
	if err := linkUp(socket, guestLink); err != nil {
		return err
	}
	if s.Network.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(s.Network.Gateway)
	if err != nil || !gateway.Is4() {
		return fmt.Errorf("%w: gateway %q", frame.ErrProtocol, s.Network.Gateway)
	}
	if err := addDefaultRoute(socket, gateway); err != nil {
		return fmt.Errorf("default route by %s: %w", gateway, err)
	}
	return nil
}

func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(socket) }()
	return linkUp(socket, "lo")
}

func linkUp(socket int, name string) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, request); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

func setAddress(socket int, ioctl uint, address netip.Addr) error {
	request, err := unix.NewIfreq(guestLink)
	if err != nil {
		return err
	}
	if err := request.SetInet4Addr(address.AsSlice()); err != nil {
		return err
	}
	return unix.IoctlIfreq(socket, ioctl, request)
}

// setMTU sets the size of the interface's packets, in bytes.
func setMTU(socket, mtu int) error {
	request, err := unix.NewIfreq(guestLink)
	if err != nil {
		return err
	}
	request.SetUint32(uint32(mtu))
	return unix.IoctlIfreq(socket, unix.SIOCSIFMTU, request)
}

// hardwareRequest is struct ifreq with a hardware address.
type hardwareRequest struct {
	name    [unix.IFNAMSIZ]byte
	family  uint16
	address [14]byte
	_       [8]byte
}

func setMAC(socket int, mac net.HardwareAddr) error {
	request := hardwareRequest{family: unix.ARPHRD_ETHER}
	copy(request.name[:], guestLink)
	copy(request.address[:], mac)
	return ioctl(socket, unix.SIOCSIFHWADDR, unsafe.Pointer(&request))
}

// routeRequest is struct rtentry of 64 bit machines.
type routeRequest struct {
	_                          uint64
	destination, gateway, mask [16]byte // struct sockaddr_in
	flags                      uint16
	_                          [6]byte
	_                          [2]uint64
	_                          uint16 // metric
	_                          [6]byte
	device                     uint64
	mtu, window                uint64
	irtt                       uint16
	_                          [6]byte
}

func addDefaultRoute(socket int, gateway netip.Addr) error {
	any, via := sockaddr(netip.IPv4Unspecified()), sockaddr(gateway)
	request := routeRequest{destination: any, mask: any, gateway: via, flags: unix.RTF_UP | unix.RTF_GATEWAY}
	err := ioctl(socket, unix.SIOCADDRT, unsafe.Pointer(&request))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func sockaddr(address netip.Addr) (raw [16]byte) {
	binary.NativeEndian.PutUint16(raw[:], unix.AF_INET)
	copy(raw[4:], address.AsSlice())
	return raw
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
