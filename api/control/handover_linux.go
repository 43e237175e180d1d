package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxSockets bounds what one message carries; Linux takes 253 descriptors (SCM_MAX_FD).
	maxSockets = 64
	// handoverTimeout bounds each step of a handover.
	handoverTimeout = 30 * time.Second
)

// Offer is the supervisor's part of a handover: it waits for the executor at listener, learns what sockets it has, and
// sends it what choose makes of them. What choose returns stays its own; what the executor sent is choose's.
func Offer(listener *net.UnixListener, choose func(held []Socket) ([]Socket, error)) error {
	if err := listener.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("waiting for the executor: %w", err)
	}
	defer func() { _ = conn.Close() }()
	held, err := receive(conn)
	if err != nil {
		return fmt.Errorf("receiving the executor's sockets: %w", err)
	}
	wanted, err := choose(held)
	if err != nil {
		return err
	}
	if err := send(conn, wanted); err != nil {
		return fmt.Errorf("handing the sockets over: %w", err)
	}
	return nil
}

// Receive is the executor's part: it sends what it has to the supervisor at path, and returns what it shall have, which
// the caller closes.
func Receive(path string, held []Socket) ([]Socket, error) {
	conn, err := net.DialTimeout("unix", path, handoverTimeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := send(conn.(*net.UnixConn), held); err != nil {
		return nil, fmt.Errorf("handing the sockets back: %w", err)
	}
	wanted, err := receive(conn.(*net.UnixConn))
	if err != nil {
		return nil, fmt.Errorf("receiving the sockets: %w", err)
	}
	return wanted, nil
}

// send sends descriptors (SCM_RIGHTS, unix(7)) in one message with their paths: a JSON list of strings.
func send(conn *net.UnixConn, sockets []Socket) error {
	if len(sockets) > maxSockets {
		return fmt.Errorf("%d sockets; at most %d can be handed over", len(sockets), maxSockets)
	}
	paths, fds := make([]string, len(sockets)), make([]int, len(sockets))
	for i, s := range sockets {
		raw, err := s.File.SyscallConn() // Fd would make the socket block, for everybody who has it
		if err != nil {
			return err
		}
		paths[i] = s.Path
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	text, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	return err
}

func receive(conn *net.UnixConn) (sockets []Socket, err error) {
	if err := conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, err
	}
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxSockets))
	n, rn, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	fds, err := descriptors(rights[:rn])
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		sockets = append(sockets, Socket{File: os.NewFile(uintptr(fd), "socket")})
	}
	var paths []string
	if err := json.Unmarshal(text[:n], &paths); err != nil || len(paths) != len(sockets) {
		Close(sockets)
		return nil, errors.New("the list of sockets does not fit the descriptors that came with it")
	}
	for i := range sockets {
		sockets[i].Path = paths[i]
	}
	return sockets, nil
}

func descriptors(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		all = append(all, fds...)
	}
	return all, nil
}
