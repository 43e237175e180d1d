package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/private"
)

// There are two pipes, and which one a caller could open says what it may do: the access list of a pipe is enforced by
// Windows before we see a byte, whereas asking who is at the other end would need the caller's leave.
const (
	// administratorsOnly lets the system and administrators in and nobody else; callers over the network are go-winio's to
	// refuse (FILE_PIPE_REJECT_REMOTE_CLIENTS), as a list would refuse those logged in by SSH, too. The owner is said
	// because callers ask for it (private.DialPipe), and what it is by default depends on the host.
	administratorsOnly = "O:BAD:P(A;;GA;;;SY)(A;;GA;;;BA)"
	// member adds one more, who may talk, and not make another end of the pipe for others to talk to.
	member = "(A;;%#x;;;%s)"
	// jobsSuffix is added to the administrators' pipe's name to make the drivers'.
	jobsSuffix = "-jobs"
)

// DefaultSocket is the administrators' pipe of the host with a run directory. Directories other than the usual one
// have pipes of their own.
func DefaultSocket(runDir string) string {
	const name = `\\.\pipe\airlock-host`
	if strings.EqualFold(filepath.Clean(runDir), filepath.Clean(config.Default().RunDir)) {
		return name
	}
	sum := sha256.Sum256([]byte(strings.ToLower(filepath.Clean(runDir))))
	return name + "-" + hex.EncodeToString(sum[:6])
}

// makeRunDir lets nobody through: the pipes lie elsewhere.
func makeRunDir(dir string) error { return private.MakeDir(dir) }

// listen makes both pipes.
func listen(path, _, group string) (net.Listener, error) {
	drivers, err := membersToo(group)
	if err != nil {
		return nil, err
	}
	all, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: administratorsOnly})
	if err != nil {
		return nil, err
	}
	jobs, err := winio.ListenPipe(path+jobsSuffix, &winio.PipeConfig{SecurityDescriptor: drivers})
	if err != nil {
		return nil, errors.Join(err, all.Close())
	}
	l := &twoPipes{all: all, jobs: jobs, conns: make(chan accepted), shut: make(chan struct{})}
	go l.accept(all, rightsAll)
	go l.accept(jobs, rightsJobs)
	return l, nil
}

// membersToo is the access list of a pipe that a group may use, too, unless it is empty.
func membersToo(group string) (string, error) {
	if group == "" {
		return administratorsOnly, nil
	}
	sid, _, _, err := windows.LookupSID("", group)
	if err != nil {
		return "", fmt.Errorf("the configured group %q: %w", group, err)
	}
	return administratorsOnly + fmt.Sprintf(member, private.UsePipe, sid), nil
}

// listenForClass makes the pipe of a runner class: one for drivers. If there is one of that name already, it fails.
func listenForClass(path, group string) (net.Listener, error) {
	drivers, err := membersToo(group)
	if err != nil {
		return nil, err
	}
	pipe, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: drivers})
	if err != nil {
		return nil, err
	}
	return driversPipe{pipe}, nil
}

// driversPipe lets drivers in and nobody else.
type driversPipe struct{ net.Listener }

// Accept is net.Listener's.
func (l driversPipe) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pipeConn{conn, rightsJobs}, nil
}

// twoPipes accepts from both.
type twoPipes struct {
	all, jobs net.Listener
	conns     chan accepted
	once      sync.Once
	shut      chan struct{}
}

type accepted struct {
	conn net.Conn
	err  error
}

// pipeConn knows which pipe it came by.
type pipeConn struct {
	net.Conn
	rights rights
}

func (l *twoPipes) accept(from net.Listener, rights rights) {
	for {
		conn, err := from.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		next := accepted{err: err}
		if err == nil {
			next.conn = &pipeConn{conn, rights}
		}
		select {
		case l.conns <- next:
		case <-l.shut:
			if conn != nil {
				_ = conn.Close()
			}
			return
		}
	}
}

// Accept is net.Listener's.
func (l *twoPipes) Accept() (net.Conn, error) {
	select {
	case next := <-l.conns:
		return next.conn, next.err
	case <-l.shut:
		return nil, net.ErrClosed
	}
}

// Addr is that of the administrators' pipe.
func (l *twoPipes) Addr() net.Addr { return l.all.Addr() }

// Close closes both.
func (l *twoPipes) Close() error {
	l.once.Do(func() { close(l.shut) })
	return errors.Join(l.all.Close(), l.jobs.Close())
}

// identify tells a caller's rights by the pipe that let it in.
func identify(conn net.Conn, group string) (peer, error) {
	c, ok := conn.(*pipeConn)
	if !ok {
		return peer{}, fmt.Errorf("%T is no connection of a pipe of ours", conn)
	}
	if c.rights == rightsAll {
		return peer{name: "administrator", rights: rightsAll}, nil
	}
	return peer{name: "a caller of the drivers' pipe", rights: c.rights, group: group}, nil
}

// hungUp cannot be told without reading; a caller that vanished while it was held back is noticed when its
// frames have been passed on.
func hungUp(net.Conn) bool { return false }
