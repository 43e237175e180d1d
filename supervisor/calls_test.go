//go:build linux

package supervisor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/client"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestCallsReachTheBackendAndResultsComeBack(t *testing.T) {
	r := newRig(t)
	s := r.up()

	c := run(t, r.socket, "echo", "echo hello")
	require.NoError(t, c.err)
	require.Equal(t, "echo hello", c.stdout.String())
	require.Equal(t, "on stderr", c.stderr.String(), "the streams are kept apart")
	require.Equal(t, 3, c.status)

	for stage, want := range map[string]struct {
		class   fault.Class
		message string
	}{
		"author": {fault.Author, "the author's fault"},
		"admin":  {fault.Admin, "the administrator's fault (do better)"},
		"other":  {fault.System, "nobody classified this"},
		"panic":  {fault.System, "the executor made a mistake"},
	} {
		err := run(t, r.socket, stage, "").err
		require.ErrorContains(t, err, want.message, stage)
		require.Equal(t, want.class, fault.ClassOf(err), stage)
	}
	s.awaitLog("told to panic") // with its stack
	echoes(t, r.socket)         // the executor survives a panic

	op, body, response := prepareOf("{}")
	c = begin(t, r.socket, op, body, response).end()
	require.NoError(t, c.err)
	require.Equal(t, "2 bytes of response\n", c.stdout.String())
	cleanUp(t, r.socket)
	require.Equal(t, "1-a", r.awaitNote("cleaned", 10*time.Second))

	c = beginStage(t, r.socket, "signal").await("waiting")
	c.signals <- 15
	require.NoError(t, c.end().err)
	require.Equal(t, 143, c.status)

	err := run(t, r.socket, "echo", strings.Repeat("x", api.MaxScript+1)).err
	require.ErrorContains(t, err, "the script is larger than 64 MiB")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func TestAdministratorsQuestions(t *testing.T) {
	r := newRig(t)
	r.up()
	ctx := t.Context()
	c, err := client.Dial(ctx, r.socket)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, r.executor().Instance, c.Version().Instance)
	images, err := api.Ask(ctx, c, api.ListImages, api.Nothing{})
	require.NoError(t, err)
	require.EqualValues(t, 7, images.LimitBytes)
	removed, err := api.Ask(ctx, c, api.RemoveImage, api.ImageRequest{Image: "x"})
	require.NoError(t, err)
	require.EqualValues(t, 4711, removed.FreedBytes)
	_, err = api.Ask(ctx, c, api.PinImage, api.PinRequest{Image: "x", Pinned: true})
	require.NoError(t, err)
	r.awaitNote("pinned", 10*time.Second)
	leftovers, err := api.Ask(ctx, c, api.Reap, api.ReapRequest{DryRun: true})
	require.NoError(t, err)
	require.False(t, leftovers[0].Removed)
	_, err = api.Ask(ctx, c, api.InspectOne, api.InspectRequest{Job: "42"})
	require.EqualError(t, err, `no sandbox of job "42" lives`)
	require.Equal(t, fault.Admin, fault.ClassOf(err))

	var lines []string
	require.NoError(t, api.ReadEvents(ctx, c, api.Events{Job: "al-000000000001"}, func(json []byte) error {
		lines = append(lines, string(json))
		return nil
	}))
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "the test executor serves")
	require.NotContains(t, lines[0], "SECRET_OF_THE_SERVICE", "the executor gets a short explicit environment")
	require.Contains(t, lines[0], "PATH=")
}

// heldAtMost is how many bytes of 256 MiB that pass may be in the executor's memory. It is about 15 MiB; the race
// detector takes its share too. Nothing of them passes the supervisor.
const (
	heldAtMost         = 100 << 20
	supervisorAddsMost = 10 << 20
)

// memory returns a function that checks what a rig's processes took since.
func (r *rig) memory(s *process) (check func()) {
	executor := r.executor().Process.PID
	supervised, executed := peakRSS(r.t, s.cmd.Process.Pid), peakRSS(r.t, executor)
	return func() {
		r.t.Helper()
		require.Less(r.t, peakRSS(r.t, executor)-executed, int64(heldAtMost), "the executor held too much")
		require.Less(r.t, peakRSS(r.t, s.cmd.Process.Pid)-supervised, int64(supervisorAddsMost), "the supervisor has no part in it")
	}
}

func TestOutputOfASlowReaderIsHeldBackNotBuffered(t *testing.T) {
	r := newRig(t)
	s := r.up()
	echoes(t, r.socket)
	check := r.memory(s)
	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)
	defer c.Close()
	var out, errs slowWriter
	out.stall = 1500 * time.Millisecond
	status, err := c.Call(t.Context(), api.OpSandbox, api.Sandbox{Command: []string{"flood", "128"}},
		api.Streams{Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Zero(t, status)
	require.EqualValues(t, 128<<20, out.written)
	require.EqualValues(t, 128<<20, errs.written)
	require.Equal(t, map[byte]bool{'a': true}, out.seen)
	require.Equal(t, map[byte]bool{'b': true}, errs.seen)
	check()
}

// slowWriter stalls once, then takes what comes, and remembers which bytes came.
type slowWriter struct {
	stall   time.Duration
	written int64
	seen    map[byte]bool
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.seen == nil {
		time.Sleep(w.stall)
		w.seen = map[byte]bool{}
	}
	w.written += int64(len(p))
	w.seen[p[0]], w.seen[p[len(p)-1]] = true, true
	return len(p), nil
}

func TestInputIsHeldBackNotBuffered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.up()
	echoes(t, r.socket)
	check := r.memory(s)
	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)
	defer c.Close()

	const size = 256 << 20
	hash := sha256.New()
	var progress strings.Builder
	tar := io.TeeReader(io.LimitReader(rand.Reader, size), hash)
	_, err = c.Call(t.Context(), api.OpImport, api.Import{Name: "x"}, api.Streams{Stdin: tar, Stdout: &progress, Stderr: io.Discard})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%d %s", size, hex.EncodeToString(hash.Sum(nil))), progress.String())
	check()
}

// TestAStalledReaderHoldsBackItsOwnStageOnly: neither other connections nor other calls of the same one.
func TestAStalledReaderHoldsBackItsOwnStageOnly(t *testing.T) {
	r := newRig(t)
	r.up()
	c, err := client.Dial(t.Context(), r.socket)
	require.NoError(t, err)
	defer c.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the reader has gone")
	stalled := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, api.OpRun, api.Run{Handle: "1-a", Stage: "flood 0"}, api.Streams{
			Stdout: writerFunc(func(p []byte) (int, error) { close(stalled); <-ctx.Done(); return 0, ctx.Err() }), Stderr: io.Discard,
		})
		ended <- err
	}()
	<-stalled
	time.Sleep(500 * time.Millisecond) // everything that can fill up has
	for range 20 {
		echoes(t, r.socket)
		var out strings.Builder
		_, err := c.Call(t.Context(), api.OpRun, api.Run{Handle: "1-a", Stage: "echo"},
			api.Streams{Stdin: strings.NewReader("beside it"), Stdout: &out, Stderr: io.Discard})
		require.NoError(t, err)
		require.Equal(t, "beside it", out.String())
	}
	cancel(gone)
	require.ErrorIs(t, <-ended, gone)
	require.Equal(t, api.ErrCallerGone.Error(), r.awaitNote("cause", 10*time.Second))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestADriverThatIsKilledEndsItsStage(t *testing.T) {
	for name, args := range map[string][]string{
		"waiting":                    {"hang"},
		"reading nothing":            {"flood 0", "deaf"},
		"sending what nobody reads":  {"stuff"},
		"sending and reading nought": {"stuff", "deaf"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.up()
			driver := exec.Command(os.Args[0], append([]string{r.socket}, args...)...)
			driver.Env = append(os.Environ(), testRole+"=driver")
			require.NoError(t, driver.Start())
			verb, _, _ := strings.Cut(strings.Replace(args[0], "stuff", "hang", 1), " ")
			r.awaitNote("begun "+verb, 20*time.Second)
			time.Sleep(time.Second) // whatever can fill up has
			require.NoFileExists(t, filepath.Join(r.script.Notes, "cause"))
			require.NoError(t, driver.Process.Kill())
			_ = driver.Wait()
			killed := time.Now()
			require.Equal(t, api.ErrCallerGone.Error(), r.awaitNote("cause", 10*time.Second))
			require.Less(t, time.Since(killed), 2*time.Second, "at once")
			echoes(t, r.socket)
		})
	}
}

// TestNoiseEndsItsOwnConnectionAlone: what is no frame of this protocol, and who says nothing.
func TestNoiseEndsItsOwnConnectionAlone(t *testing.T) {
	r := newRig(t)
	r.up()
	echoes(t, r.socket)
	first := r.executor()
	silent, err := net.Dial("unix", r.socket)
	require.NoError(t, err)
	defer silent.Close()
	for name, noise := range map[string]string{
		"http":          "GET / HTTP/1.1\r\n\r\n",
		"a ping":        "\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01",
		"a huge window": "\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff",
		"another yamux": "\x09\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00",
	} {
		conn, err := net.Dial("unix", r.socket)
		require.NoError(t, err)
		_, err = conn.Write([]byte(noise))
		require.NoError(t, err, name)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the executor hangs up on %s", name)
		require.NoError(t, conn.Close())
	}
	echoes(t, r.socket)
	require.Equal(t, first.Instance, r.executor().Instance)
}
