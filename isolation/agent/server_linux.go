package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

// server is the agent: the state of one sandbox.
type server struct {
	procs     *procTable
	pid1      bool
	null      *os.File
	oom       oomScore
	usage     *usageFiles // nil but in a guest
	permitted uint64      // capabilities that it can pass on to other users, a bit for each

	// mu makes forking, reaping and killing exclude each other, so that a status never belongs to an older
	// process with the same id and no process escapes between its fork and its entry here.
	mu    sync.Mutex
	roots *roots            // nil before the setup
	using map[*root]int     // the starts and processes in each root
	byPID map[int]*child    // main processes that were not reaped yet
	byID  map[uint64]*child // processes whose end was not reported yet
}

// Serve is the agent's life: it answers the executor at the other end of conn until the connection ends, then
// kills every process of the sandbox and returns; nil when it was the executor that ended the connection. Call it once
// in a process, as PID 1 of a sandbox, and exit when it returns. Elsewhere it makes itself a child subreaper and
// leaves foreign processes alone.
func Serve(conn io.ReadWriteCloser) error {
	s, err := newServer()
	if err != nil {
		conn.Close()
		return err
	}
	return s.run(conn)
}

// run is Serve after the preparations.
func (s *server) run(conn io.ReadWriteCloser) error {
	// As PID 1 of a pid namespace nothing in it can end us, except that Go would exit by itself on signals
	// like SIGTERM. Those are therefore caught, and none but SIGCHLD means anything. They are named one by one:
	// Go takes 30 µs to catch a signal, and there are 65, of which it lets most pass anyway (package os/signal).
	ignored, reap := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS,
		unix.SIGFPE, unix.SIGSEGV, unix.SIGPIPE, unix.SIGTERM, unix.SIGSTKFLT, unix.SIGSYS)
	signal.Notify(reap, unix.SIGCHLD)
	go func() {
		for range reap {
			s.reap()
		}
	}()

	session, err := yamux.Server(conn, frame.Config(frame.Patient, startTimeout))
	if err != nil {
		conn.Close()
		return fmt.Errorf("serving the executor: %w", err)
	}
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
				err = nil // the executor closed the connection, or died
			}
			return errors.Join(err, s.killTree(nil))
		}
		go s.serve(stream)
	}
}

func newServer() (*server, error) {
	// Without this a job's process with the agent's user id could trace it or read its descriptors.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("making the agent non-dumpable: %w", err)
	}
	unix.Umask(0o022)
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	procs, err := openProcTable()
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /dev/null of the sandbox: %w", err)
	}
	s := &server{procs: procs, pid1: os.Getpid() == 1, null: null, using: map[*root]int{}, byPID: map[int]*child{}, byID: map[uint64]*child{}}
	if !s.pid1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("becoming a child subreaper: %w", err)
		}
	}
	if s.permitted, err = permitted(); err != nil {
		return nil, err
	}
	// gVisor has no ambient capabilities, Linux since 4.3.
	if _, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, 0, 0, 0); err != nil {
		s.permitted = 0
	}
	s.oom = openOOMScore()
	reserveThreads()
	return s, nil
}

// permitted returns the agent's permitted capabilities, a bit for each.
func permitted() (uint64, error) {
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		return 0, fmt.Errorf("reading the agent's capabilities: %w", err)
	}
	return uint64(have[1].Permitted)<<32 | uint64(have[0].Permitted), nil
}

// mayPassOn returns those of the capabilities that the agent has itself.
func (s *server) mayPassOn(capabilities []uintptr) []uintptr {
	return slices.DeleteFunc(slices.Clone(capabilities), func(number uintptr) bool { return s.permitted&(1<<number) == 0 })
}

// reservedThreads are more than the agent has ever been seen to need at once.
const reservedThreads = 12

// reserveThreads makes the Go runtime start threads and keep them. A job that has used up the sandbox's processes would
// otherwise end the agent, which dies when it can have no thread.
func reserveThreads() {
	var all sync.WaitGroup
	all.Add(reservedThreads)
	for range reservedThreads {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait() // every one holds its thread until the last has got one
		}()
	}
	all.Wait()
}

// closeOnExec keeps every descriptor that the agent was started with from its children: the connection, and whatever
// a runtime may have leaked.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing the agent's descriptors: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// serve answers one stream.
func (s *server) serve(stream *yamux.Stream) {
	defer stream.Close()
	req, err := readRequest(stream)
	if err != nil {
		return // the executor went away in the middle of its request
	}
	if req.Op == opStart && req.Start != nil {
		s.serveStart(stream, *req.Start)
		return
	}
	got, err := s.answer(req)
	if err != nil {
		got = reply{Error: toWire(err)}
	}
	_ = frame.WriteJSON(stream, frameReply, got) // it fails only with the connection, which ends the agent anyway
}

func readRequest(r io.Reader) (request, error) {
	// Requests are the one frame whose payload is allocated by its length: they come from the executor.
	var header [frame.HeaderLength]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return request{}, err
	}
	length := int64(header[1])<<24 | int64(header[2])<<16 | int64(header[3])<<8 | int64(header[4])
	if frame.Type(header[0]) != frameRequest || length > maxRequest {
		return request{}, fmt.Errorf("%w: a frame of type %d with %d bytes instead of a request", frame.ErrProtocol, header[0], length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return request{}, err
	}
	return parseRequest(payload)
}

func (s *server) answer(req request) (reply, error) {
	switch {
	case req.Op == opHello && req.Hello != nil:
		return reply{Hello: &greeting{Version: Version, Nonce: req.Hello.Nonce}}, nil
	case req.Op == opSetup && req.Setup != nil:
		return reply{}, s.prepare(*req.Setup)
	case req.Op == opSignal && req.Signal != nil:
		return reply{}, s.signal(req.Signal.ID, unix.Signal(req.Signal.Signal))
	case req.Op == opResize && req.Resize != nil:
		return reply{}, s.resize(*req.Resize)
	case req.Op == opUsage && s.usage != nil:
		return reply{Usage: s.usage.read()}, nil
	default:
		return reply{}, fmt.Errorf("%w: operation %q", frame.ErrProtocol, req.Op)
	}
}

// toWire keeps of an error what the executor may learn.
func toWire(err error) *wireError {
	class := fault.ClassOf(err)
	wire := &wireError{Author: class == fault.Author, Helper: class == fault.Admin, Message: err.Error()}
	var failure *fault.Error
	if errors.As(err, &failure) && failure.Remedy != "" {
		wire.Message, wire.Remedy = failure.Err.Error(), failure.Remedy
	}
	return wire
}
