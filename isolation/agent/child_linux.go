package agent

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
)

// child is a process that the executor asked for.
type child struct {
	id          uint64
	pid         int
	helper      bool
	interactive bool
	oomKills    int64 // when it was started; in a guest only
	streams     *childStreams
	status      chan syscall.WaitStatus // receives one
	ended       chan struct{}           // closed when everything it started is dead
}

// reap collects every dead child, the orphans of jobs included, and passes on the statuses that are waited for.
func (s *server) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid <= 0:
			return
		}
		if c, ok := s.byPID[pid]; ok {
			delete(s.byPID, pid)
			c.status <- status
		}
	}
}

// finish waits for the main process, ends everything it left behind, forwards the rest of the output and returns
// the payload of the exit frame.
func (s *server) finish(stream *yamux.Stream, c *child) ([exitLength]byte, error) {
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(stream, c.streams.stdout, frameStdout) })
	if c.streams.stderr != nil {
		pumps.Go(func() { pump(stream, c.streams.stderr, frameStderr) })
	}
	status := <-c.status
	err := s.killTree(c)
	s.mu.Lock()
	delete(s.byID, c.id)
	s.mu.Unlock()
	close(c.ended)
	c.streams.drain()
	pumps.Wait()
	c.streams.closeOwnEnds()
	exit := [exitLength]byte{byte(status.ExitStatus())}
	if status.Signaled() {
		exit = [exitLength]byte{0, byte(status.Signal())}
	}
	if s.usage != nil && s.usage.oomKills() > c.oomKills {
		exit[2] = 1
	}
	return exit, err
}

// receive feeds stdin to the process. When the executor gives up the stream, it kills the process.
func (s *server) receive(stream *yamux.Stream, c *child) {
	buf := make([]byte, frame.MaxPayload)
	for {
		typ, payload, err := frame.Read(stream, buf)
		switch {
		case err != nil:
			select {
			case <-c.ended:
			default:
				_ = s.signal(c.id, unix.SIGKILL) // nobody is left to hear of an error
			}
			return
		case typ == frameStdin && c.streams.stdin != nil:
			_, _ = c.streams.stdin.Write(payload) // a process may end or close its stdin before the input does
		case typ == frameStdinEnd:
			c.streams.endStdin()
		}
	}
}

// signal sends a signal to a process and everything it started; one that has ended needs none.
func (s *server) signal(id uint64, sig unix.Signal) error {
	s.mu.Lock()
	c, ok := s.byID[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if sig == unix.SIGKILL {
		return s.killTree(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	targets, _, err := s.targets(c)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if err := unix.Kill(t.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("sending signal %d to process %d: %w", sig, t.pid, err)
		}
	}
	return nil
}

func (s *server) resize(req resizeRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.byID[req.ID]
	if !ok || !c.streams.tty {
		return nil
	}
	if err := c.streams.resize(req.Rows, req.Columns); err != nil {
		return fmt.Errorf("resizing a terminal: %w", err)
	}
	return nil
}
