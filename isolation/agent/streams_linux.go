package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
)

// childStreams are the descriptors of one process: pipes, or a terminal that takes the part of all three.
type childStreams struct {
	stdin          *os.File // our end; nil when the process reads /dev/null
	stdout, stderr *os.File // our ends; stderr is nil with a terminal
	tty            bool
	child          []uintptr  // stdin, stdout, stderr of the process
	opened         []*os.File // what of child we opened
}

func (s *server) openStreams(req startRequest, a account) (streams *childStreams, err error) {
	streams = &childStreams{tty: req.TTY}
	defer func() {
		if err != nil {
			streams.closeChildEnds()
			streams.closeOwnEnds()
			err = fmt.Errorf("opening the streams of a process: %w", err)
		}
	}()
	if req.TTY {
		err = streams.openTerminal(req, a)
		return streams, err
	}
	stdin := s.null
	if req.Stdin {
		if stdin, streams.stdin, err = pipe(); err != nil {
			return streams, err
		}
		streams.opened = append(streams.opened, stdin)
	}
	var out, errOut *os.File
	if streams.stdout, out, err = pipe(); err != nil {
		return streams, err
	}
	streams.opened = append(streams.opened, out)
	if streams.stderr, errOut, err = pipe(); err != nil {
		return streams, err
	}
	streams.opened = append(streams.opened, errOut)
	for _, file := range streams.opened {
		if err := give(file, a); err != nil {
			return streams, err
		}
	}
	streams.child = []uintptr{stdin.Fd(), out.Fd(), errOut.Fd()}
	return streams, nil
}

// pipe is os.Pipe. Fd() makes the child's end blocking, as programs expect, and leaves ours with the poller.
func pipe() (r, w *os.File, err error) { return os.Pipe() }

// give lets the process open its streams by name: /dev/stdout is a link to the pipe, which is opened anew. A process that
// root starts as another user (su, setpriv) can, too: a process that reaches the link at all has the pipe already. In
// gVisor a pipe has no owner to change, and says EPERM.
func give(stream *os.File, a account) error {
	for _, err := range []error{stream.Chown(a.uid, a.gid), stream.Chmod(0o666)} {
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("giving a stream to user %d: %w", a.uid, err)
		}
	}
	return nil
}

// openTerminal makes a pseudo terminal and gives it to the user, as login programs do.
func (c *childStreams) openTerminal(req startRequest, a account) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening /dev/ptmx: %w", err)
	}
	c.stdin = os.NewFile(uintptr(fd), "terminal")
	c.stdout = c.stdin
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlocking a terminal: %w", err)
	}
	peer, err := openPeer(fd)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	file := os.NewFile(uintptr(peer), "terminal")
	c.opened = []*os.File{file}
	c.child = []uintptr{uintptr(peer), uintptr(peer), uintptr(peer)}
	if err := file.Chown(a.uid, -1); err != nil {
		return fmt.Errorf("giving a terminal to user %d: %w", a.uid, err)
	}
	return c.resize(req.Rows, req.Columns)
}

// openPeer opens the other side of a pseudo terminal.
func openPeer(fd int) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	// Asked for by descriptor, the other side is found whatever is mounted on /dev/pts.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno != unix.ENOTTY {
		if errno != 0 {
			return -1, errno
		}
		return int(peer), nil
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN) // gVisor can be asked for its name alone
	if err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/dev/pts/%d", number), flags, 0)
}

func (c *childStreams) resize(rows, columns uint16) error {
	if rows == 0 || columns == 0 {
		return nil
	}
	conn, err := c.stdout.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = conn.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(err, ioctlErr)
}

func (c *childStreams) childEnds() []uintptr { return c.child }

func (c *childStreams) closeChildEnds() {
	for _, file := range c.opened {
		file.Close()
	}
}

func (c *childStreams) closeOwnEnds() {
	for _, file := range []*os.File{c.stdin, c.stdout, c.stderr} {
		if file != nil {
			file.Close()
		}
	}
}

// endStdin tells the process that its input has ended.
func (c *childStreams) endStdin() {
	switch {
	case c.tty:
		_, _ = c.stdin.Write([]byte{4}) // ^D
	case c.stdin != nil:
		c.stdin.Close()
	}
}

// drain makes the pumps return with what is in the pipes now: their writers are dead. Waiting for the end of file
// instead would wait for everybody else who was given the other end, an administrator's session for example.
func (c *childStreams) drain() {
	for _, file := range []*os.File{c.stdout, c.stderr} {
		if file != nil {
			_ = file.SetReadDeadline(time.Unix(1, 0))
		}
	}
}

// pump forwards one output as frames until it ends or is drained. It goes on reading when the executor no longer
// takes the frames, so that the process is not held back from its end.
func pump(stream io.Writer, from *os.File, typ frame.Type) {
	buf := make([]byte, frame.HeaderLength+frame.MaxPayload)
	forward := func(n int) {
		if n > 0 && stream != nil {
			if _, err := stream.Write(frame.Put(buf, typ, n)); err != nil {
				stream = nil
			}
		}
	}
	for {
		n, err := from.Read(buf[frame.HeaderLength:])
		forward(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return
		}
	}
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	for n := 1; n > 0; forward(n) {
		err := conn.Control(func(fd uintptr) {
			for {
				n, err = syscall.Read(int(fd), buf[frame.HeaderLength:])
				if !errors.Is(err, syscall.EINTR) {
					return
				}
			}
		})
		if err != nil {
			return
		}
	}
}
