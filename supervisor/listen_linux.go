package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

// DefaultSocket is the socket's path below a run directory.
func DefaultSocket(runDir string) string { return filepath.Join(runDir, "host", "host.sock") }

// makeRunDir lets everybody through: the socket's own directory decides.
func makeRunDir(dir string) error { return os.MkdirAll(dir, 0o755) }

// listenIn makes a socket in a directory that is in order, writable by root and the group. It takes the place of a dead one
// when it is complete: drivers that wait for it knock all the time, and must not be told that they may not.
func listenIn(path string, gid int) (*os.File, error) {
	fresh := path + "~"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = listener.Close() }() // the file has a descriptor of its own
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	if err != nil {
		return nil, errors.Join(err, os.Remove(fresh))
	}
	if err := errors.Join(os.Chown(fresh, 0, gid), os.Chmod(fresh, 0o660), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
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

// socketDir makes the directory of the service's own socket, which only root and the group may enter. One that was there
// already and is not ours is left as it is.
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

func groupID(name string) (int, error) { return identity.GroupID(name) }
