package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/testing/standin"
)

func dial(t *testing.T, e *standin.Executor) *api.Client {
	t.Helper()
	c, err := Dial(t.Context(), standin.Serve(t, e))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func shell(script string) api.Sandbox { return api.Sandbox{Command: []string{"sh", "-c", script}} }

func sandbox(t *testing.T, c *api.Client, script string, streams api.Streams) (int, error) {
	t.Helper()
	return c.Call(t.Context(), api.OpSandbox, shell(script), streams)
}

func TestACommandHasItsInputOutputAndStatus(t *testing.T) {
	c := dial(t, &standin.Executor{Log: "preparing\n"})
	var stdout, stderr bytes.Buffer
	code, err := sandbox(t, c, "cat; echo wrong >&2; exit 7",
		api.Streams{Stdin: strings.NewReader("hello"), Stdout: &stdout, Stderr: &stderr})
	require.NoError(t, err)
	require.Equal(t, 7, code)
	require.Equal(t, "hello", stdout.String())
	require.Equal(t, "preparing\nwrong\n", stderr.String())
}

// stalledWriter takes nothing for a while.
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
			c := dial(t, &standin.Executor{})
			out := &stalledWriter{stall: func() { time.Sleep(2500 * time.Millisecond) }}
			code, err := sandbox(t, c, script, api.Streams{Stdout: out, Stderr: io.Discard})
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
	c := dial(t, &standin.Executor{})
	signals := make(chan int, 1)
	ready := &notifyingWriter{text: "ready", seen: func() { signals <- int(syscall.SIGTERM) }}
	code, err := sandbox(t, c, `trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.05; done`,
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
	c := dial(t, &standin.Executor{})
	resizes := make(chan *api.Resize, 1)
	out := &notifyingWriter{text: "31 101", seen: func() { resizes <- &api.Resize{Rows: 40, Columns: 120} }}
	code, err := c.Call(t.Context(), api.OpShell, api.Shell{
		Job: "1", TTY: true, Size: &api.Resize{Rows: 31, Columns: 101},
		Command: []string{"sh", "-c", `stty size; while [ "$(stty size)" = "31 101" ]; do sleep 0.05; done; stty size`},
	}, api.Streams{Stdout: out, Stderr: io.Discard, Resizes: resizes})
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, "31 101\r\n40 120\r\n", out.String())
}

func importImage(t *testing.T, c *api.Client, tar io.Reader) error {
	t.Helper()
	_, err := c.Call(t.Context(), api.OpImport, api.Import{Name: "mine:1"}, api.Streams{Stdin: tar, Stdout: io.Discard, Stderr: io.Discard})
	return err
}

func TestAnImportArrivesByteForByte(t *testing.T) {
	e := &standin.Executor{}
	content := make([]byte, 5<<20+17)
	_, _ = rand.Read(content)
	require.NoError(t, importImage(t, dial(t, e), bytes.NewReader(content)))
	require.Equal(t, sha256.Sum256(content), sha256.Sum256(e.Imported()))
	require.Equal(t, api.OpImport, e.Opened()[0].Op)
	var opened api.Import
	require.NoError(t, json.Unmarshal(e.Opened()[0].Body, &opened))
	require.Equal(t, api.Import{Name: "mine:1"}, opened)
}

func TestAnInputThatBreaksFailsTheCall(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("disk on fire")))
	require.ErrorContains(t, importImage(t, dial(t, &standin.Executor{}), broken), "reading the input: disk on fire")
}

func TestAnOutputThatBreaksFailsTheCall(t *testing.T) {
	_, err := sandbox(t, dial(t, &standin.Executor{}), "yes", api.Streams{Stdout: brokenWriter{}, Stderr: io.Discard})
	require.ErrorIs(t, err, syscall.EPIPE)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestCancellingEndsTheCommand(t *testing.T) {
	c := dial(t, &standin.Executor{})
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &notifyingWriter{text: "ready", seen: func() { cancel(errors.New("the administrator went home")) }}
	_, err := c.Call(ctx, api.OpSandbox, shell("echo $$ >"+pidFile+"; echo ready; exec sleep 600"),
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
		fail  error
		class fault.Class
		want  string
	}{
		{standin.Failure("system", "no space left"), fault.System, "no space left"},
		{standin.Failure("author", "no such image"), fault.Author, "no such image"},
		{standin.Failure("admin", "not allowed"), fault.Admin, "not allowed"},
		{errors.New(""), fault.System, "gave no reason"},
	} {
		c := dial(t, &standin.Executor{Fail: tc.fail})
		_, err := sandbox(t, c, "true", api.Streams{Stdout: io.Discard, Stderr: io.Discard})
		require.ErrorContains(t, err, tc.want)
		require.Equal(t, tc.class, fault.ClassOf(err))
		_, err = api.Ask(t.Context(), c, api.ListSandboxes, api.Nothing{})
		require.ErrorContains(t, err, tc.want)
		require.Equal(t, tc.class, fault.ClassOf(err))
	}
}

func TestEventsAreFollowedUntilTheCallerHasEnough(t *testing.T) {
	following := make(chan string, 1)
	following <- `{"message":"later"}`
	e := &standin.Executor{EventLines: []string{`{"message":"kept"}`}, Following: following}
	ctx, cancel := context.WithCancelCause(t.Context())
	var got []string
	err := api.ReadEvents(ctx, dial(t, e), api.Events{Follow: true}, func(json []byte) error {
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
	serve := func(name string, greet func() (api.Version, error)) string {
		path := filepath.Join(dir, name)
		listener, err := net.Listen("unix", path)
		require.NoError(t, err)
		t.Cleanup(standin.Accept(listener, greet, nil))
		return path
	}
	stranger := serve("stranger.sock", func() (api.Version, error) {
		return api.Version{}, api.Administrator(errors.New("user 1234 is neither root nor in the group"))
	})
	for name, tc := range map[string]struct{ socket, want string }{
		"no socket":     {filepath.Join(dir, "none.sock"), "does not answer on " + dir + "/none.sock (start it with:"},
		"nobody behind": {dead, "does not answer on " + dead + " (start it with:"},
		"refused":       {stranger, "user 1234 is neither root nor in the group"},
		"other version": {standin.Serve(t, &standin.Executor{Protocol: 99}), "speaks protocol 99, this command speaks 2 (use the airlock command of"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(t.Context(), tc.socket)
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
		})
	}
}

// An executor that is ending refuses callers, or hangs up; the next one answers them.
func TestDialWaitsForTheNextExecutor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	var greetings atomic.Int32
	t.Cleanup(standin.Accept(&hangingUp{Listener: listener}, func() (api.Version, error) {
		if greetings.Add(1) == 1 {
			return api.Version{}, api.NotBegun(errors.New("stopping"))
		}
		return api.Version{Protocol: api.ProtocolVersion}, nil
	}, nil))
	c, err := Dial(t.Context(), path)
	require.NoError(t, err)
	c.Close()
	require.EqualValues(t, 2, greetings.Load())

	// One that always hangs up is no reason to wait for ever.
	mute := filepath.Join(t.TempDir(), "s")
	listener, err = net.Listen("unix", mute)
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("the test has no time"))
	defer cancel()
	_, err = Dial(ctx, mute)
	require.ErrorContains(t, err, "the Airlock service does not answer on "+mute+": the test has no time (see airlock doctor)")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

// hangingUp closes the first connection that it accepts.
type hangingUp struct {
	net.Listener
	once sync.Once
}

func (l *hangingUp) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.once.Do(func() { _ = conn.Close() })
	}
	return conn, err
}
