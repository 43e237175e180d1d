package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// sockets are the listening sockets that the supervisor makes, keeps, and hands to each executor. Nothing is accepted
// here: it is by being kept that a socket outlives an executor, with the callers who wait in its queue.
type sockets struct {
	wanted []*control.Entrance
	own    string // of wanted, the service's
	runDir string

	mu   sync.Mutex
	held map[string]*os.File // by path
}

func newSockets(opts Options) *sockets {
	wanted := opts.entrances()
	s := &sockets{wanted: wanted, own: wanted[0].GetPath(), runDir: opts.RunDir, held: map[string]*os.File{}}
	s.adopt(opts.Stored)
	return s
}

// adopt keeps those of the sockets that are wanted and still lead here, and closes the others. They come from systemd,
// which kept them for a former supervisor, or from an executor that a former one left.
func (s *sockets) adopt(found []control.Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range found {
		wanted := slices.ContainsFunc(s.wanted, func(e *control.Entrance) bool { return e.GetPath() == f.Path })
		if !wanted || s.held[f.Path] != nil || !isBound(f.Path) {
			_ = f.File.Close()
			continue
		}
		s.held[f.Path] = f.File
	}
}

// isBound reports whether somebody can be reached at path. The connection that this makes is closed at once.
func isBound(path string) bool {
	conn, err := net.Dial("unix", path)
	if errors.Is(err, unix.EAGAIN) {
		return true // its queue is full
	}
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// open makes the sockets that are missing, and gives all of them the access that the configuration names. known are
// paths at which an executor of ours may still listen: their sockets are replaced. It makes all of them or none.
func (s *sockets) open(known []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	present := maps.Clone(s.held)
	for _, e := range s.wanted {
		if err := s.openOne(e, slices.Contains(known, e.GetPath())); err != nil {
			maps.DeleteFunc(s.held, func(path string, file *os.File) bool {
				if present[path] != nil {
					return false
				}
				_, _ = os.Remove(path), file.Close()
				return true
			})
			return err
		}
	}
	return nil
}

// removeDead removes those of the paths that are sockets at which nobody listens.
func removeDead(paths []string) {
	for _, path := range paths {
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket && !isBound(path) {
			_ = os.Remove(path)
		}
	}
}

func (s *sockets) openOne(e *control.Entrance, known bool) error {
	path := e.GetPath()
	gid, err := s.prepareDir(e)
	if err == nil && s.held[path] != nil {
		err = errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660))
	} else if err == nil {
		if e.GetRunnerClass() != "" && !known {
			err = checkFree(path)
		}
		var file *os.File
		if err == nil {
			file, err = listenIn(path, gid)
		}
		if err == nil {
			s.held[path] = file
		}
	}
	switch {
	case err == nil:
		return nil
	case e.GetRunnerClass() != "":
		return fault.Adminf("listening on %s, the socket of runner class %q: %w", path, e.GetRunnerClass(), err)
	default:
		return fault.Adminf("listening on %s: %w", path, err)
	}
}

// prepareDir makes the directory of a socket fit for it and returns the id of its group.
func (s *sockets) prepareDir(e *control.Entrance) (gid int, err error) {
	if e.GetGroup() != "" {
		if gid, err = groupID(e.GetGroup()); err != nil {
			return 0, err
		}
	}
	dir := filepath.Dir(e.GetPath())
	if e.GetPath() == s.own {
		return gid, socketDir(dir, s.runDir, gid)
	}
	return gid, classDir(dir, gid)
}

// checkFree refuses a path at which something else is: the socket of a class may lie anywhere.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return fault.WithRemedy(fault.Adminf("%s is no socket: it is left as it is", path), "remove it, or name another path")
	case err == nil && isBound(path):
		return fault.WithRemedy(fault.Adminf("somebody listens there already"), "name another path, or stop that service")
	default:
		return nil
	}
}

// handTo gives an executor the sockets, and takes over those that it has and we do not.
func (s *sockets) handTo(ctx context.Context, rpc control.ControlClient, where paths) error {
	handover := filepath.Join(where.plugin(), "handover.sock")
	if err := os.Remove(handover); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: handover, Net: "unix"})
	if err != nil {
		return fmt.Errorf("handing the sockets over: %w", err)
	}
	defer func() { _ = listener.Close() }()
	offered := make(chan error, 1)
	go func() { offered <- control.Offer(listener, s.choose) }()
	_, err = rpc.Listen(ctx, &control.ListenRequest{Handover: handover, Entrances: s.wanted})
	_ = listener.Close() // an executor that did not come will not come any more
	if err != nil {
		return fmt.Errorf("handing the sockets over: %w", errors.Join(control.FromStatus(err), <-offered))
	}
	return <-offered
}

// choose returns all that the executor shall have.
func (s *sockets) choose(held []control.Socket) ([]control.Socket, error) {
	s.adopt(held)
	if err := s.open(nil); err != nil {
		return nil, err
	}
	if err := failpoint.Hit("supervisor/sockets-chosen"); err != nil {
		return nil, err
	}
	return s.all(), nil
}

// all returns the sockets; they stay the supervisor's.
func (s *sockets) all() (all []control.Socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.wanted {
		if file := s.held[e.GetPath()]; file != nil {
			all = append(all, control.Socket{Path: e.GetPath(), File: file})
		}
	}
	return all
}

// close lets go of the sockets. remove says that nobody else has them: then callers learn at once that nobody is there.
func (s *sockets) close(remove bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, file := range s.held {
		if remove {
			_ = os.Remove(path)
		}
		_ = file.Close()
	}
	clear(s.held)
}
