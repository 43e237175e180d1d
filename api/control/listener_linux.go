package control

import (
	"errors"
	"fmt"
	"net"
)

// OpenSockets takes the sockets that the supervisor made, and gives it those that this process has: the supervisor may
// be a new one that has none. It is an Open.
func OpenSockets(req *ListenRequest, former []*Listener) (listeners []*Listener, err error) {
	held, err := heldBy(former)
	defer Close(held)
	if err != nil {
		return nil, err
	}
	received, err := Receive(req.GetHandover(), held)
	defer Close(received) // a listener has a descriptor of its own
	if err != nil {
		return nil, err
	}
	known := map[string]*Entrance{}
	for _, e := range req.GetEntrances() {
		known[e.GetPath()] = e
	}
	for _, socket := range received {
		e := known[socket.Path]
		if e == nil {
			closeAll(listeners)
			return nil, fmt.Errorf("a socket was handed over that is none of the service's: %s", socket.Path)
		}
		listener, err := net.FileListener(socket.File)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("listening on %s: %w", socket.Path, err)
		}
		if l, ok := listener.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false) // the path is the supervisor's
		}
		listeners = append(listeners, &Listener{Listener: listener, Entrance: e})
	}
	return listeners, nil
}

// heldBy returns descriptors of what this process listens on, which the caller closes.
func heldBy(listeners []*Listener) (held []Socket, err error) {
	for _, l := range listeners {
		listener, ok := l.Listener.(*net.UnixListener)
		if !ok {
			return held, errors.New("an entrance is no unix socket")
		}
		file, err := listener.File()
		if err != nil {
			return held, fmt.Errorf("handing %s back: %w", l.GetPath(), err)
		}
		held = append(held, Socket{Path: l.GetPath(), File: file})
	}
	return held, nil
}
