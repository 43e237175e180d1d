package microvm

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// TestInterface: the guest's interface is what it was told, in a machine that was restored and in one that was booted.
func TestInterface(t *testing.T) {
	bench := newBench(t)
	r := bench.newRuntime(t)
	require.NoError(t, r.Warm(t.Context(), bench.spec(t).Limits, true))
	for _, cloned := range []bool{true, false} {
		spec := bench.spec(t)
		if !cloned {
			spec.Limits.Memory += 32 << 20 // no template has this shape
		}
		name := fmt.Sprintf("almt%d", os.Getpid()%10000)
		spec.Network = isolation.Network{
			Tap: name, TapFile: newTap(t, name), MAC: "02:00:00:00:12:34", Address: "192.0.2.2/24", Gateway: "192.0.2.1", MTU: 1380,
		}
		s := bench.box(t, r, spec)
		require.Equal(t, cloned, s.cloned)
		require.Equal(t, "02:00:00:00:12:34\n1380\n", shell(t, s, "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu"))
		require.Contains(t, shell(t, s, "ip -4 addr show eth0"), "192.0.2.2/24")
		require.Regexp(t, `^0{31}1 \S+ \S+ \S+ \S+ +lo\n$`, shell(t, s, "cat /proc/net/if_inet6"), "::1 alone")
		require.Equal(t, "1\n1\n0\n", shell(t, s, "cd /proc/sys/net/ipv6/conf; cat eth0/disable_ipv6 default/disable_ipv6 lo/disable_ipv6"))
		require.Contains(t, shell(t, s, "ip route"), "default via 192.0.2.1 dev eth0")
		require.NoError(t, s.Destroy(t.Context()))
		require.NoError(t, spec.Network.TapFile.Close())
		_, err := os.Stat("/sys/class/net/" + name)
		require.ErrorIs(t, err, os.ErrNotExist, "the device goes with its last holder")
	}
}

// newTap makes a tap device as package network does.
func newTap(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	request, err := unix.NewIfreq(name)
	require.NoError(t, err)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	return os.NewFile(uintptr(fd), name)
}

// TestNothingIsWrittenBeyondTheScratch: a disk that is larger than the scratch may be is cut. Here its file system does not fit
// any more; otherwise it takes a guest that has left its own kernel's bounds to write there.
func TestNothingIsWrittenBeyondTheScratch(t *testing.T) {
	const limit = 64 << 20
	bench := newBench(t)
	spec := bench.spec(t)
	spec.Limits.Scratch = limit
	writeMuch := func(s isolation.Sandbox) {
		p, err := s.Start(t.Context(), isolation.ProcessSpec{Script: []byte("head -c 100000000 /dev/urandom > /builds/x; sync; true")})
		require.NoError(t, err)
		_, _ = p.Wait() // I/O errors in the guest, or its end
	}
	r := bench.warm(t)
	writeMuch(bench.box(t, r, spec))
	require.Zero(t, dataBehind(t, spec.ScratchDisk, limit))

	free := bench.spec(t)
	writeMuch(bench.box(t, r, free))
	require.Greater(t, dataBehind(t, free.ScratchDisk, limit), int64(100_000_000-limit), "only the limit prevents it")
}

// dataBehind is how much data a sparse file has behind an offset, in bytes.
func dataBehind(t *testing.T, path string, offset int64) (sum int64) {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	for {
		data, err := unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return sum
		}
		require.NoError(t, err)
		offset, err = unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
		require.NoError(t, err)
		sum += offset - data
	}
}
