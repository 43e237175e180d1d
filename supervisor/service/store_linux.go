package service

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/api/control"
)

// firstStored is the number of the first descriptor that systemd passes (sd_listen_fds(3)).
const firstStored = 3

// StoreSockets gives the sockets to systemd to keep while no supervisor lives (sd_notify(3), FDSTORE), so that callers
// wait for the next one instead of failing. It reports whether systemd has them; without systemd nobody does.
func StoreSockets(sockets []control.Socket) (kept bool, err error) {
	for _, s := range sockets {
		if strings.ContainsAny(s.Path, ":\n") || len(s.Path) > 255 {
			return false, fmt.Errorf("systemd keeps no socket whose path has a colon or more than 255 bytes: %s", s.Path)
		}
		// One of the same name may be there, of a socket that was replaced.
		if _, err := notify("FDSTOREREMOVE=1\nFDNAME="+s.Path+"\n", nil); err != nil {
			return false, err
		}
		raw, err := s.File.SyscallConn()
		if err != nil {
			return false, err
		}
		var notifyErr error
		if err := raw.Control(func(fd uintptr) {
			kept, notifyErr = notify("FDSTORE=1\nFDNAME="+s.Path+"\n", unix.UnixRights(int(fd)))
		}); err != nil {
			return false, err
		}
		if notifyErr != nil || !kept {
			return false, notifyErr
		}
	}
	return kept, nil
}

// StoredSockets returns what systemd kept for a former supervisor. It may be called once: no child learns of them.
func StoredSockets() (sockets []control.Socket) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	n, err := strconv.Atoi(count)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	paths := strings.Split(names, ":")
	for i := range n {
		fd := firstStored + i
		unix.CloseOnExec(fd)
		file := os.NewFile(uintptr(fd), "stored socket")
		if i >= len(paths) {
			_ = file.Close()
			continue
		}
		sockets = append(sockets, control.Socket{Path: paths[i], File: file})
	}
	return sockets
}
