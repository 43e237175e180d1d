package network

import (
	"context"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/cleanup"
	"github.com/airlock-ci/airlock/isolation"
)

// plugTap connects a guest to the bridge by a tap device, to which the same rules apply as to a veth pair: it is
// a port of the same name. The frames have no virtio-net header: the host's kernel never has to believe
// what a guest says about segments and checksums.
func (m *Manager) plugTap(ctx context.Context, a *attachment, network *isolation.Network) error {
	m.host.RLock()
	defer m.host.RUnlock()
	name := portName(m.bridge, a.id)
	file, err := openTap(name)
	if err != nil {
		return fmt.Errorf("making tap %s: %w", name, err)
	}
	a.tap, network.Tap, network.TapFile, network.MTU = file, name, file, m.mtu
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding tap %s: %w", name, err)
	}
	if err := netlink.LinkSetMTU(link, m.mtu); err != nil {
		return fmt.Errorf("MTU %d of tap %s: %w", m.mtu, name, err)
	}
	if err := netlink.LinkSetMasterByIndex(link, m.bridgeIndex); err != nil {
		return fmt.Errorf("adding tap %s to %s: %w", name, m.bridge, err)
	}
	if err := m.configurePort(link, a); err != nil {
		return fmt.Errorf("configuring tap %s: %w", name, err)
	}
	if err := awaitCarrier(ctx, m.bridgeIndex, netlink.LinkByIndex); err != nil { // it has one only with a port
		return fmt.Errorf("waiting for the bridge: %w", err)
	}
	return nil
}

// openTap makes a tap device that lives as long as its one queue is open somewhere: the returned file, and the
// virtual machine's that inherits it. Nobody can open another queue.
func openTap(name string) (tap *os.File, err error) {
	undo := cleanup.New(context.Background())
	defer undo.Run(&err)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	undo.Push(func() error { return unix.Close(fd) })
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	undo.Release()
	return os.NewFile(uintptr(fd), "tap "+name), nil
}
