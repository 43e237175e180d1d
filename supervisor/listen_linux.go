package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

// DefaultSocket is the socket's path below a run directory.
func DefaultSocket(runDir string) string { return filepath.Join(runDir, "host", "host.sock") }

// makeRunDir lets everybody through: the socket's own directory decides.
func makeRunDir(dir string) error { return os.MkdirAll(dir, 0o755) }

// listen makes the socket: in a directory of its own that only root and the group may enter (0750), itself
// writable by both (0660). A directory that was there already and is not ours is left as it is.
func listen(path, runDir, group string) (net.Listener, error) {
	gid := 0
	if group != "" {
		var err error
		if gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	if err := socketDir(filepath.Dir(path), runDir, gid); err != nil {
		return nil, err
	}
	return listenIn(path, gid) // the run directory's lock is ours, so a socket that is there is a dead host's
}

// listenIn makes a socket in a directory that is in order. It takes the place of a dead one when it is complete: drivers that
// wait for it knock all the time, and must not be told that they may not.
func listenIn(path string, gid int) (net.Listener, error) {
	fresh := path + "~"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", fresh)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(fresh, 0, gid), os.Chmod(fresh, 0o660), os.Rename(fresh, path)); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return &renamedListener{Listener: listener, path: path}, nil
}

// listenForClass makes the socket of a runner class. Unlike the service's own it may lie anywhere, so nothing there is
// believed to be ours: whoever could change the path could take the runner's jobs, with their secrets, by a socket of their own.
func listenForClass(path, group string) (net.Listener, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := classDir(dir, gid); err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fault.WithRemedy(fault.Adminf("%s is no socket: it is left as it is", path), "remove it, or name another path")
	}
	if err == nil {
		if conn, err := net.Dial("unix", path); err == nil {
			return nil, errors.Join(fault.WithRemedy(fault.Adminf("somebody listens there already"), "name another path, or stop that service"), conn.Close())
		}
	}
	return listenIn(path, gid)
}

// classDir makes the directory of a socket, or makes sure that nobody but root can change the path to it and that the group
// gets in.
func classDir(dir string, gid int) error {
	err := os.Mkdir(dir, 0o750)
	if err == nil {
		if err := errors.Join(os.Chown(dir, 0, gid), os.Chmod(dir, 0o750)); err != nil {
			return errors.Join(err, os.Remove(dir))
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fault.WithRemedy(fault.Adminf("making the socket's directory: %w", err), "make the directory above it, root's, or name another path")
	}
	for at := dir; ; at = filepath.Dir(at) {
		var stat unix.Stat_t
		if err := unix.Lstat(at, &stat); err != nil {
			return fmt.Errorf("looking at %s: %w", at, err)
		}
		sticky := at != dir && stat.Mode&unix.S_ISVTX != 0
		switch mode := stat.Mode; {
		case mode&unix.S_IFMT != unix.S_IFDIR:
			return fault.WithRemedy(fault.Adminf("%s is no directory", at), "write the path without symbolic links")
		case stat.Uid != 0 || mode&0o022 != 0 && !sticky:
			return fault.WithRemedy(fault.Adminf("%s can be written by others than root, who could put a socket of their own in the way", at),
				"name a directory of root's, as in /run/airlock-protected/host.sock")
		case mode&0o001 == 0 && (int(stat.Gid) != gid || mode&0o010 == 0):
			return fault.WithRemedy(fault.Adminf("%s does not let the group %d in", at, gid), "let it: chgrp and chmod g+x, or remove the directory and have it made anew")
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// renamedListener removes its socket when it is closed: net knows only the name that it had first.
type renamedListener struct {
	net.Listener
	path string
}

func (l *renamedListener) Close() error {
	return errors.Join(os.Remove(l.path), l.Listener.Close())
}

func socketDir(dir, runDir string, gid int) error {
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, os.ErrExist) && dir != filepath.Dir(DefaultSocket(runDir)) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return errors.Join(os.Chown(dir, 0, gid), os.Chmod(dir, 0o750))
}

func groupID(name string) (int, error) {
	group, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("the configured group: %w", err)
	}
	return strconv.Atoi(group.Gid)
}

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
	gid, err := groupID(group)
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

// hungUp reports whether the other end has closed a connection that is not being read.
func hungUp(conn net.Conn) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	var gone bool
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n == 1
	}); err != nil {
		return true
	}
	return gone
}
