package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/client/hosttest"
	"github.com/airlock-ci/airlock/internal/fault"
)

func dial(t *testing.T, h *hosttest.Host) *Client {
	t.Helper()
	c, err := Dial(t.Context(), hosttest.Serve(t, h))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func shell(script string) *api.Sandbox { return &api.Sandbox{Command: []string{"sh", "-c", script}} }

func TestACommandHasItsInputOutputAndStatus(t *testing.T) {
	c := dial(t, &hosttest.Host{Log: "preparing\n"})
	var stdout, stderr bytes.Buffer
	code, err := c.Sandbox(t.Context(), shell("cat; echo wrong >&2; exit 7"),
		api.Streams{Stdin: strings.NewReader("hello"), Stdout: &stdout, Stderr: &stderr})
	require.NoError(t, err)
	require.Equal(t, 7, code)
	require.Equal(t, "hello", stdout.String())
	require.Equal(t, "preparing\nwrong\n", stderr.String())
}

// stalledWriter takes nothing for a while, longer than ttrpc's own patience of one second.
type stalledWriter struct {
	once  sync.Once
	stall func()
	bytes.Buffer
}

func (w *stalledWriter) Write(p []byte) (int, error) {
	w.once.Do(w.stall)
	return w.Buffer.Write(p)
}

func TestAStalledOutputHoldsTheCommandBack(t *testing.T) {
	for name, script := range map[string]string{
		"large chunks": "head -c 33554432 /dev/zero | tr '\\0' x",
		"single lines": "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, &hosttest.Host{})
			out := &stalledWriter{stall: func() { time.Sleep(2500 * time.Millisecond) }}
			code, err := c.Sandbox(t.Context(), shell(script), api.Streams{Stdout: out, Stderr: io.Discard})
			require.NoError(t, err)
			require.Zero(t, code)
			if name == "large chunks" {
				require.Equal(t, 33554432, out.Len())
				require.Equal(t, 33554432, bytes.Count(out.Bytes(), []byte("x")))
				return
			}
			require.Equal(t, 20000, bytes.Count(out.Bytes(), []byte("\n")))
			require.True(t, bytes.HasSuffix(out.Bytes(), []byte("\n19999\n")))
		})
	}
}

func TestASignalReachesTheCommand(t *testing.T) {
	c := dial(t, &hosttest.Host{})
	signals := make(chan int, 1)
	ready := &notifyingWriter{text: "ready", seen: func() { signals <- int(syscall.SIGTERM) }}
	code, err := c.Sandbox(t.Context(), shell(`trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.05; done`),
		api.Streams{Stdout: ready, Stderr: io.Discard, Signals: signals})
	require.NoError(t, err)
	require.Equal(t, 3, code)
	require.Contains(t, ready.String(), "ended")
}

// notifyingWriter calls seen once text was written.
type notifyingWriter struct {
	bytes.Buffer
	text string
	seen func()
}

func (w *notifyingWriter) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if w.seen != nil && strings.Contains(w.String(), w.text) {
		w.seen()
		w.seen = nil
	}
	return n, err
}

func TestATerminalHasItsSizeAndFollowsIt(t *testing.T) {
	c := dial(t, &hosttest.Host{})
	resizes := make(chan *api.Resize, 1)
	out := &notifyingWriter{text: "31 101", seen: func() { resizes <- &api.Resize{Rows: 40, Columns: 120} }}
	code, err := c.Shell(t.Context(), &api.Shell{
		Job: "1", Tty: true, Size: &api.Resize{Rows: 31, Columns: 101},
		Command: []string{"sh", "-c", `stty size; while [ "$(stty size)" = "31 101" ]; do sleep 0.05; done; stty size`},
	}, api.Streams{Stdout: out, Stderr: io.Discard, Resizes: resizes})
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, "31 101\r\n40 120\r\n", out.String())
}

func TestAnImportArrivesByteForByte(t *testing.T) {
	h := &hosttest.Host{}
	content := make([]byte, 5<<20+17)
	_, _ = rand.Read(content)
	require.NoError(t, dial(t, h).ImportImage(t.Context(), &api.ImportImage{Name: "mine:1"}, bytes.NewReader(content), io.Discard))
	require.Equal(t, sha256.Sum256(content), sha256.Sum256(h.Imported()))
	require.Equal(t, "mine:1", h.Opened()[0].GetImport().GetName())
}

func TestAnInputThatBreaksFailsTheCall(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("disk on fire")))
	err := dial(t, &hosttest.Host{}).ImportImage(t.Context(), &api.ImportImage{Name: "mine:1"}, broken, io.Discard)
	require.ErrorContains(t, err, "reading the input: disk on fire")
}

func TestAnOutputThatBreaksFailsTheCall(t *testing.T) {
	_, err := dial(t, &hosttest.Host{}).Sandbox(t.Context(), shell("yes"),
		api.Streams{Stdout: brokenWriter{}, Stderr: io.Discard})
	require.ErrorIs(t, err, syscall.EPIPE)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestCancellingEndsTheCommand(t *testing.T) {
	c := dial(t, &hosttest.Host{})
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &notifyingWriter{text: "ready", seen: func() { cancel(errors.New("the administrator went home")) }}
	_, err := c.Sandbox(ctx, shell("echo $$ >"+pidFile+"; echo ready; exec sleep 600"),
		api.Streams{Stdout: out, Stderr: io.Discard})
	require.ErrorContains(t, err, "the administrator went home")
	pid, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return errors.Is(err, os.ErrNotExist)
	}, 20*time.Second, 20*time.Millisecond, "the command outlived its caller")
}

func TestAResultTellsWhoseFailureItWas(t *testing.T) {
	for _, tc := range []struct {
		result *api.Result
		class  fault.Class
		want   string
	}{
		{&api.Result{Message: "no space left"}, fault.System, "no space left"},
		{&api.Result{FailureClass: api.FailureClass_FAILURE_CLASS_AUTHOR, Message: "no such image"}, fault.Author, "no such image"},
		{&api.Result{FailureClass: api.FailureClass_FAILURE_CLASS_ADMIN, Message: "not allowed"}, fault.Admin, "not allowed"},
		{&api.Result{}, fault.System, "gave no reason"},
	} {
		_, err := dial(t, &hosttest.Host{Result: tc.result}).Sandbox(t.Context(), shell("true"),
			api.Streams{Stdout: io.Discard, Stderr: io.Discard})
		require.ErrorContains(t, err, tc.want)
		require.Equal(t, tc.class, fault.ClassOf(err))
	}
}

func TestAStatusIsClassified(t *testing.T) {
	for code, class := range map[codes.Code]fault.Class{
		codes.InvalidArgument:    fault.Author,
		codes.PermissionDenied:   fault.Admin,
		codes.FailedPrecondition: fault.Admin,
		codes.Unavailable:        fault.System,
		codes.Internal:           fault.System,
	} {
		c := dial(t, &hosttest.Host{Fail: status.Error(code, "this is why")})
		_, err := c.List(t.Context())
		require.EqualError(t, err, "this is why")
		require.Equal(t, class, fault.ClassOf(err), code.String())
		_, err = c.Sandbox(t.Context(), shell("true"), api.Streams{Stdout: io.Discard, Stderr: io.Discard})
		require.EqualError(t, err, "this is why")
	}
}

func TestEventsAreFollowedUntilTheCallerHasEnough(t *testing.T) {
	following := make(chan string, 1)
	following <- `{"message":"later"}`
	h := &hosttest.Host{EventLines: []string{`{"message":"kept"}`}, Following: following}
	ctx, cancel := context.WithCancelCause(t.Context())
	var got []string
	err := dial(t, h).Events(ctx, "", true, func(json []byte) error {
		got = append(got, string(json))
		if len(got) == 2 {
			cancel(errors.New("enough"))
		}
		return nil
	})
	require.ErrorContains(t, err, "enough")
	require.Equal(t, []string{`{"message":"kept"}`, `{"message":"later"}`}, got)
}

func TestDialExplainsWhyNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	require.NoError(t, err)
	listener.SetUnlinkOnClose(false)
	require.NoError(t, listener.Close())

	rejecting := filepath.Join(dir, "rejecting.sock")
	rejector, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", rejecting)
	require.NoError(t, err)
	defer rejector.Close()
	go func() {
		for {
			conn, err := rejector.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()

	for name, tc := range map[string]struct{ socket, want string }{
		"no socket":     {filepath.Join(dir, "none.sock"), "does not answer on " + dir + "/none.sock (start it with:"},
		"nobody behind": {dead, "does not answer on " + dead + " (start it with:"},
		"refused":       {rejecting, "closed the connection (only root and the members"},
		"other version": {hosttest.Serve(t, &hosttest.Host{Protocol: 99}), "speaks protocol 99, this command speaks 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(t.Context(), tc.socket)
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
}
