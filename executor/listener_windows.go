package executor

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
	"google.golang.org/protobuf/proto"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
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

// openEntrances makes the pipes that this process does not have yet. Unlike a unix socket, a pipe ends with the process
// that made it. It is a control.Open.
func openEntrances(req *control.ListenRequest, former []*control.Listener) (listeners []*control.Listener, err error) {
	var made []*control.Listener
	for _, wanted := range req.GetEntrances() {
		same := func(l *control.Listener) bool { return proto.Equal(l.Entrance, wanted) }
		if i := slices.IndexFunc(former, same); i >= 0 {
			listeners = append(listeners, former[i])
			continue
		}
		listenOn := listen
		if wanted.GetRunnerClass() != "" {
			listenOn = listenForClass
		}
		l := &control.Listener{Entrance: wanted}
		if l.Listener, err = listenOn(wanted.GetPath(), wanted.GetGroup()); err != nil {
			for _, l := range made {
				_ = l.Close()
			}
			return nil, fault.Adminf("listening on %s: %w", wanted.GetPath(), err)
		}
		made, listeners = append(made, l), append(listeners, l)
	}
	return listeners, nil
}

// listen makes both pipes.
func listen(path, group string) (net.Listener, error) {
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

// identify returns a caller's rights by the pipe that let it in.
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
