package executor

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPeerGroups: more than fit at first.
func TestPeerGroups(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	ours, err := unix.Getgroups()
	require.NoError(t, err)
	groups, err := peerGroups(uintptr(pair[0]))
	require.NoError(t, err)
	require.Len(t, groups, len(ours))

	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	many := make([]uint32, 300)
	for i := range many {
		many[i] = uint32(5000 + i)
	}
	called := make(chan error, 1)
	go func() { called <- connectWith(many, path) }()
	require.NoError(t, listener.SetDeadline(time.Now().Add(30*time.Second)))
	conn, err := listener.AcceptUnix()
	require.NoError(t, err)
	require.NoError(t, <-called)
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { groups, err = peerGroups(fd) }))
	require.NoError(t, err)
	require.Equal(t, many, groups)
	require.NoError(t, conn.Close())
}

// connectWith connects on a thread with these groups, which ends with the goroutine.
func connectWith(groups []uint32, path string) error {
	runtime.LockOSThread()
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}
