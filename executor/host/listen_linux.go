package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
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
	// The run directory's lock is ours, so a socket that is there is a dead host's. The new one takes its place
	// when it is complete: drivers that wait for it knock all the time, and must not be told that they may not.
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
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return peer{}, err
	}
	if credErr != nil {
		return peer{}, credErr
	}
	who := peer{name: fmt.Sprintf("user %d", cred.Uid), group: group}
	switch {
	case cred.Uid == 0:
		who.rights = rightsAll
	case group != "" && inGroup(cred, group):
		who.rights = rightsJobs
	}
	return who, nil
}

// inGroup tells whether a peer is a member of a group: by the group it runs with, or by the user database.
func inGroup(cred *unix.Ucred, group string) bool {
	gid, err := groupID(group)
	if err != nil {
		return false
	}
	if cred.Gid == uint32(gid) {
		return true
	}
	account, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10))
	if err != nil {
		return false
	}
	groups, err := account.GroupIds()
	return err == nil && slices.Contains(groups, strconv.Itoa(gid))
}

// hungUp tells whether the other end has closed a connection that is not being read.
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
