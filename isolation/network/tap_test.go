//go:build linux

package network

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// A virtual machine inherits the tap device. Nobody else gets at it by its name, and Detach takes it away from a
// machine that still lives.
func TestTapHasOneUser(t *testing.T) {
	m := newManager(t, options(t))
	network, err := m.Attach(t.Context(), "al-000000000001", ModeNAT, isolation.NetworkTap)
	require.NoError(t, err)
	require.Equal(t, portName("test0", "al-000000000001"), network.Tap)
	require.Empty(t, network.NetNS)
	_, err = openTap(network.Tap)
	require.ErrorIs(t, err, unix.EBUSY)

	machine := exec.Command("sleep", "60")
	machine.ExtraFiles = append(machine.ExtraFiles, network.TapFile)
	require.NoError(t, machine.Start())
	defer func() { _ = machine.Wait() }()
	defer func() { _ = machine.Process.Kill() }()
	require.NoError(t, m.Detach(t.Context(), "al-000000000001"))
	require.Nil(t, linkOf(t, "al-000000000001"))
	ids, err := m.Attached(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
}

// A machine that outlives the executor keeps its device, and a successor finds and removes it.
func TestTapOfAnOrphanedMachine(t *testing.T) {
	m := newManager(t, options(t))
	network, err := m.Attach(t.Context(), "al-000000000001", ModeNAT, isolation.NetworkTap)
	require.NoError(t, err)
	machine := exec.Command("sleep", "60")
	machine.ExtraFiles = append(machine.ExtraFiles, network.TapFile)
	require.NoError(t, machine.Start())
	defer func() { _ = machine.Wait() }()
	defer func() { _ = machine.Process.Kill() }()
	require.NoError(t, network.TapFile.Close()) // as the executor's death does

	successor := newManager(t, options(t))
	ids, err := successor.Attached(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"al-000000000001"}, ids)
	require.NoError(t, successor.Detach(t.Context(), "al-000000000001"))
	require.Nil(t, linkOf(t, "al-000000000001"))
}

func TestGuestWithoutNetwork(t *testing.T) {
	m := newManager(t, options(t))
	links, err := netlink.LinkList()
	require.NoError(t, err)
	network, err := m.Attach(t.Context(), "al-000000000001", ModeNone, isolation.NetworkTap)
	require.NoError(t, err)
	require.Equal(t, isolation.Network{}, network)
	after, err := netlink.LinkList()
	require.NoError(t, err)
	require.Len(t, after, len(links))
	_, err = m.Attach(t.Context(), "al-000000000001", ModeNone, isolation.NetworkTap)
	require.ErrorContains(t, err, "already")
}
