package executor

import (
	"errors"
	"fmt"
	"net"

	"github.com/airlock-ci/airlock/api/control"
)

// openEntrances takes the sockets that the supervisor made, and gives it those that this process has: the supervisor may
// be a new one that has none.
func (s *server) openEntrances(req *control.ListenRequest) (entrances []*entrance, err error) {
	held, err := s.sockets()
	defer control.Close(held)
	if err != nil {
		return nil, err
	}
	received, err := control.Receive(req.GetHandover(), held)
	defer control.Close(received) // a listener has a descriptor of its own
	if err != nil {
		return nil, err
	}
	known := map[string]*control.Entrance{}
	for _, e := range req.GetEntrances() {
		known[e.GetPath()] = e
	}
	for _, socket := range received {
		e := known[socket.Path]
		if e == nil {
			closeAll(entrances)
			return nil, fmt.Errorf("a socket was handed over that is none of the service's: %s", socket.Path)
		}
		listener, err := net.FileListener(socket.File)
		if err != nil {
			closeAll(entrances)
			return nil, fmt.Errorf("listening on %s: %w", socket.Path, err)
		}
		if l, ok := listener.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false) // the path is the supervisor's
		}
		entrances = append(entrances, &entrance{Listener: listener, path: socket.Path, group: e.GetGroup(), class: e.GetRunnerClass()})
	}
	return entrances, nil
}

// sockets returns descriptors of what this process listens on, which the caller closes.
func (s *server) sockets() (held []control.Socket, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entrances {
		listener, ok := e.Listener.(*net.UnixListener)
		if !ok {
			return held, errors.New("an entrance is no unix socket")
		}
		file, err := listener.File()
		if err != nil {
			return held, fmt.Errorf("handing %s back: %w", e.path, err)
		}
		held = append(held, control.Socket{Path: e.path, File: file})
	}
	return held, nil
}
