//go:build linux

package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/api"
	realdriver "github.com/airlock-ci/airlock/driver"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// TestCallsWaitForTheNextExecutor: what comes while there is none waits in the queue of the socket, and then runs, once.
func TestCallsWaitForTheNextExecutor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.up()
	hanging := beginStage(t, r.socket, "hang").await("hanging")
	first := r.executor()
	r.script.StartDie = true
	r.configure()
	require.NoError(t, syscall.Kill(first.Process.PID, syscall.SIGKILL))
	require.ErrorIs(t, hanging.end().err, api.ErrLost)

	var out syncbuf.Buffer
	j := r.job(`{"id": 1}`, &out)
	preparing := j.begin(nil, realdriver.Prepare)
	var calls []*call
	for range 20 {
		op, body, script := stageOf("echo", "x")
		calls = append(calls, begin(t, r.socket, op, body, script))
	}
	time.Sleep(2 * time.Second)
	for _, c := range calls {
		require.False(t, c.ended(), "%v", c.err)
	}
	r.script.StartDie = false
	r.configure()
	for _, c := range calls {
		require.NoError(t, c.end().err)
		require.Equal(t, "x", c.stdout.String())
	}
	require.Zero(t, j.code(preparing), j.errs.String())
	require.Equal(t, "9 bytes of response\n", out.String())
	require.NotEqual(t, first.Instance, r.executor().Instance)
}

// TestASocketThatWasKept: what the service manager kept is used again, callers in its queue included, and given to it
// again.
func TestASocketThatWasKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	kept := r.socketWithQueue(16)
	op, body, script := stageOf("echo", "x")
	waiting := begin(t, r.socket, op, body, script)
	inode := inodeOf(t, r.socket)
	time.Sleep(500 * time.Millisecond)
	require.False(t, waiting.ended())

	notifications := filepath.Join(r.opts.RunDir, "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: notifications})
	require.NoError(t, err)
	defer systemd.Close()
	s := r.startWith(kept, "NOTIFY_SOCKET="+notifications)
	s.awaitLog("listening")
	require.NoError(t, waiting.end().err)
	require.Equal(t, "x", waiting.stdout.String())
	require.Equal(t, inode, inodeOf(t, r.socket), "the same socket")
	require.NoError(t, systemd.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 1024)
	for _, want := range []string{"FDSTOREREMOVE=1\nFDNAME=" + r.socket + "\n", "FDSTORE=1\nFDNAME=" + r.socket + "\n"} {
		n, err := systemd.Read(buf)
		require.NoError(t, err)
		require.Equal(t, want, string(buf[:n]))
	}

	// It is the service manager's now: the path stays when the service stops, and callers wait for the next one.
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	waiting = begin(t, r.socket, op, body, script)
	time.Sleep(500 * time.Millisecond)
	require.False(t, waiting.ended())
	r.startWith(kept).awaitLog("listening")
	require.NoError(t, waiting.end().err)
	require.Equal(t, inode, inodeOf(t, r.socket))
}

// TestAFullQueueIsOneClearFailure: a driver waits a moment for room, a job that has waited once does not again.
func TestAFullQueueIsOneClearFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.script.StartDie = true
	r.configure()
	s := r.startWith(r.socketWithQueue(0))
	s.awaitLog("listening")
	fill(t, r.socket)
	j := r.job(`{"id": 1}`, io.Discard)
	started := time.Now()
	require.Equal(t, systemFailure, j.code(j.begin(nil, realdriver.Prepare)))
	require.Greater(t, time.Since(started), 4*time.Second)
	require.Less(t, time.Since(started), 15*time.Second)
	require.Contains(t, j.errs.String(), "the Airlock service does not answer at "+r.socket)
	require.Equal(t, 1, strings.Count(j.errs.String(), "\n"), "one line: %s", &j.errs)
}

// fill makes connections until the queue of a socket takes no more.
func fill(t *testing.T, socket string) {
	t.Helper()
	for range 16 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	require.Fail(t, "the queue does not fill up")
}

// TestNoExecutorIsOneClearFailure: a driver that waits in the queue does not wait for ever.
func TestNoExecutorIsOneClearFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.script.StartDie = true
	r.configure()
	r.up()
	j := r.job(`{"id": 1}`, io.Discard)
	require.Equal(t, systemFailure, j.code(j.begin(nil, realdriver.Prepare)))
	require.Contains(t, j.errs.String(), "the Airlock service does not answer at "+r.socket+": no answer within 30s")
	require.Equal(t, 1, strings.Count(j.errs.String(), "\n"), "one line: %s", &j.errs)
}

// TestThePathStaysBound: whatever ends, callers can connect as long as supervisor or executor lives, to the same socket.
func TestThePathStaysBound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	inode := inodeOf(t, r.socket)
	ctx, stop := context.WithCancelCause(t.Context())
	var refused error
	var knocking sync.WaitGroup
	knocking.Go(func() {
		for ctx.Err() == nil {
			conn, err := net.Dial("unix", r.socket)
			if err != nil {
				refused = err
				return
			}
			_ = conn.Close()
			time.Sleep(200 * time.Microsecond)
		}
	})
	for range 3 {
		// The supervisor dies: the executor has the socket, and gives it back.
		s.kill()
		s = r.up()
		s.awaitLog("attached to the executor")
		// The executor dies: the supervisor has the socket, and hands it to the next one.
		former := r.executor()
		require.NoError(t, syscall.Kill(former.Process.PID, syscall.SIGKILL))
		echoes(t, r.socket)
		require.NotEqual(t, former.Instance, r.executor().Instance)
		prepare(t, r.socket)
		// The supervisor stops, and leaves the executor.
		s.signal(syscall.SIGTERM)
		require.NoError(t, s.wait())
		s = r.up()
		s.awaitLog("attached to the executor")
	}
	stop(nil)
	knocking.Wait()
	require.NoError(t, refused)
	require.Equal(t, inode, inodeOf(t, r.socket))

	// Both end in order: callers learn at once that nobody is there.
	cleanUp(t, r.socket)
	s.signal(syscall.SIGTERM)
	require.NoError(t, s.wait())
	require.NoFileExists(t, r.socket)
}

// TestBothAreKilled: callers learn at once that nobody is there, and the next supervisor takes the path over.
func TestBothAreKilled(t *testing.T) {
	r := newRig(t)
	s := r.up()
	echoes(t, r.socket)
	left := r.executor()
	s.kill()
	require.NoError(t, syscall.Kill(left.Process.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool { return !alive(left.Process) }, 10*time.Second, time.Millisecond)
	_, err := net.Dial("unix", r.socket)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	r.up()
	echoes(t, r.socket)
}

// TestAPathThatSomebodyRemoved is made again by the next supervisor, for the executor that was left, too.
func TestAPathThatSomebodyRemoved(t *testing.T) {
	r := newRig(t)
	s := r.up()
	prepare(t, r.socket)
	left := r.executor()
	s.kill()
	require.NoError(t, os.Remove(r.socket))
	s = r.up()
	s.awaitLog("attached to the executor")
	echoes(t, r.socket)
	require.Equal(t, left.Instance, r.executor().Instance)
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	require.NoError(t, unix.Lstat(path, &stat))
	return stat.Ino
}

// socketWithQueue makes the rig's socket as a former supervisor did, with room for so many callers and one more.
func (r *rig) socketWithQueue(most int) *os.File {
	r.t.Helper()
	require.NoError(r.t, os.Mkdir(filepath.Dir(r.socket), 0o750))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: r.socket})
	require.NoError(r.t, err)
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	require.NoError(r.t, err)
	require.NoError(r.t, listener.Close())
	raw, err := file.SyscallConn()
	require.NoError(r.t, err)
	require.NoError(r.t, raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), most) }))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = file.Close() })
	return file
}

// startWith starts a supervisor as systemd does, with a socket that it kept.
func (r *rig) startWith(kept *os.File, env ...string) *process {
	r.t.Helper()
	r.files = []*os.File{kept}
	defer func() { r.files = nil }()
	return r.start(append(env, "LISTEN_FDS=1", fmt.Sprintf("LISTEN_FDNAMES=%s", r.socket))...)
}
