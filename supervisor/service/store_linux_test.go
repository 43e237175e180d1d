package service

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/api/control"
)

// listening is a listening socket at a path below dir, with nobody who accepts.
func listening(t *testing.T, dir, name string) control.Socket {
	t.Helper()
	path := filepath.Join(dir, name)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	require.NoError(t, err)
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	t.Cleanup(func() { _ = file.Close() })
	return control.Socket{Path: path, File: file}
}

// reached makes sure that who connects to a socket's path is found in the queue of a file.
func reached(t *testing.T, path string, file *os.File) {
	t.Helper()
	caller, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer caller.Close()
	listener, err := net.FileListener(file)
	require.NoError(t, err)
	defer listener.Close()
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, listener.(*net.UnixListener).SetDeadline(time.Now().Add(10*time.Second)))
	conn, err := listener.Accept()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

// TestStoreSockets is systemd's side of the descriptor store.
func TestStoreSockets(t *testing.T) {
	dir := t.TempDir()
	sockets := []control.Socket{listening(t, dir, "a.sock"), listening(t, dir, "b.sock")}
	kept, err := StoreSockets(sockets)
	require.NoError(t, err, "without systemd there is nothing to do")
	require.False(t, kept)

	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, "notify")})
	require.NoError(t, err)
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	kept, err = StoreSockets(sockets)
	require.NoError(t, err)
	require.True(t, kept)
	require.NoError(t, systemd.SetReadDeadline(time.Now().Add(10*time.Second)))
	for _, s := range sockets {
		message, file := notification(t, systemd)
		require.Equal(t, "FDSTOREREMOVE=1\nFDNAME="+s.Path+"\n", message, "of a socket that was replaced")
		require.Nil(t, file)
		message, file = notification(t, systemd)
		require.Equal(t, "FDSTORE=1\nFDNAME="+s.Path+"\n", message)
		require.NotNil(t, file)
		reached(t, s.Path, file)
		require.NoError(t, file.Close())
	}

	_, err = StoreSockets([]control.Socket{{Path: "/run/a:b", File: sockets[0].File}})
	require.ErrorContains(t, err, "/run/a:b")
	require.NoError(t, systemd.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "notify")))
	kept, err = StoreSockets(sockets)
	require.Error(t, err)
	require.False(t, kept)
}

// notification returns one message to systemd and the descriptor that came with it, if one did.
func notification(t *testing.T, systemd *net.UnixConn) (string, *os.File) {
	t.Helper()
	text, rights := make([]byte, 1024), make([]byte, 1024)
	n, rn, _, _, err := systemd.ReadMsgUnix(text, rights)
	require.NoError(t, err)
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	require.NoError(t, err)
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		require.NoError(t, err)
		require.Len(t, fds, 1)
		return string(text[:n]), os.NewFile(uintptr(fds[0]), "received")
	}
	return string(text[:n]), nil
}

// TestStoredSockets runs itself as systemd would, with sockets that it kept.
func TestStoredSockets(t *testing.T) {
	if inside() {
		found := StoredSockets()
		paths := strings.Split(os.Getenv("WANTED"), ":")
		require.Len(t, found, len(paths))
		for i, path := range paths {
			require.Equal(t, path, found[i].Path)
			reached(t, path, found[i].File)
			flags, err := unix.FcntlInt(uintptr(3+i), unix.F_GETFD, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.FD_CLOEXEC, "no child has it")
		}
		require.Empty(t, os.Getenv("LISTEN_FDS"), "no child takes them for its own")
		require.Empty(t, StoredSockets())
		return
	}
	require.Empty(t, StoredSockets(), "without systemd there are none")
	dir := t.TempDir()
	sockets := []control.Socket{listening(t, dir, "a.sock"), listening(t, dir, "b.sock")}
	again := func(pid, names string) (string, error) {
		cmd := exec.Command("sh", "-c", `export LISTEN_PID=`+pid+`; exec "$0" -test.run '^TestStoredSockets$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "AIRLOCK_TEST_INSIDE=1", "WANTED="+sockets[0].Path+":"+sockets[1].Path,
			"LISTEN_FDS=2", "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = []*os.File{sockets[0].File, sockets[1].File}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := again("$$", sockets[0].Path+":"+sockets[1].Path)
	require.NoError(t, err, out)
	out, err = again("1", sockets[0].Path+":"+sockets[1].Path)
	require.ErrorContains(t, err, "exit status 1", "those of another process are not ours")
	require.Contains(t, out, `"[]" should have 2 item(s), but has 0`)
	out, err = again("$$", sockets[0].Path)
	require.ErrorContains(t, err, "exit status 1", "what has no name is nobody's")
	require.Contains(t, out, "should have 2 item(s), but has 1")
}
