package agent

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// SocketPair returns a connection for the executor, as Connect wants one, and its other end as a file, which a child
// inherits and the caller closes. Nothing in any file system leads to it.
func SocketPair() (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a connection: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "executor"), os.NewFile(uintptr(pair[1]), "sandbox")
	defer func() { _ = ours.Close() }() // FileConn has its own descriptor
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a connection: %w", err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}
