package executor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/identity"
)

// identify asks the kernel who connected (SO_PEERCRED: the credentials at the time of connect).
func identify(conn net.Conn, group string) (peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, fmt.Errorf("%T has no peer credentials", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var credErr, groupsErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups, groupsErr = peerGroups(fd)
	}); err != nil {
		return peer{}, err
	}
	if err := errors.Join(credErr, groupsErr); err != nil {
		return peer{}, err
	}
	who := peer{name: fmt.Sprintf("user %d", cred.Uid), group: group, uid: cred.Uid}
	switch {
	case cred.Uid == 0:
		who.rights = rightsAll
	case group != "" && inGroup(cred, groups, group):
		who.rights = rightsJobs
	}
	return who, nil
}

// peerGroups returns the supplementary groups that a peer had when it connected (SO_PEERGROUPS of socket(7), Linux 4.13).
func peerGroups(fd uintptr) ([]uint32, error) {
	const most = 65536 // NGROUPS_MAX
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && len(groups) < most: // size says how many there are
			groups = make([]uint32, min(most, int(size/4)))
		default:
			return nil, os.NewSyscallError("getsockopt", errno)
		}
	}
}

// inGroup reports whether a peer is a member of a group: by the groups it runs with, which a service manager may have given
// it, or by the user database.
func inGroup(cred *unix.Ucred, groups []uint32, group string) bool {
	gid, err := identity.GroupID(group)
	if err != nil {
		return false
	}
	if cred.Gid == uint32(gid) || slices.Contains(groups, uint32(gid)) {
		return true
	}
	account, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10))
	if err != nil {
		return false
	}
	known, err := account.GroupIds()
	return err == nil && slices.Contains(known, strconv.Itoa(gid))
}
