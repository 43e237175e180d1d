//go:build linux

package supervisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// patience is how long a test's caller waits for the executor, and for its call.
const patience = 60 * time.Second

// call is one call in progress, on a connection of its own.
type call struct {
	t              *testing.T
	stdout, stderr syncbuf.Buffer
	signals        chan int
	sizes          chan *api.Resize
	hangUp         context.CancelFunc
	done           chan struct{}
	status         int
	err            error
}

// begin makes a call with an input and does not wait for anything.
func begin(t *testing.T, socket string, op api.Op, body any, input string) *call {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c := &call{t: t, signals: make(chan int, 1), sizes: make(chan *api.Resize, 1), hangUp: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel()
		conn, err := api.Dial(ctx, socket)
		if err != nil {
			c.err = fmt.Errorf("connecting: %w", err)
			return
		}
		defer conn.Close()
		c.status, c.err = conn.Call(ctx, op, body, api.Streams{
			Stdin: strings.NewReader(input), Stdout: &c.stdout, Stderr: &c.stderr, Signals: c.signals, Resizes: c.sizes,
		})
	}()
	t.Cleanup(func() { cancel(); <-c.done })
	return c
}

func prepareOf(response string) (op api.Op, body any, input string) {
	return api.OpPrepare, api.Prepare{Handle: "1-a"}, response
}

func cleanupOf() (op api.Op, body any, input string) {
	return api.OpCleanup, api.Cleanup{Handle: "1-a"}, ""
}

func stageOf(stage, script string) (op api.Op, body any, input string) {
	return api.OpRun, api.Run{Handle: "1-a", Stage: stage}, script
}

func beginStage(t *testing.T, socket, stage string) *call {
	t.Helper()
	op, body, script := stageOf(stage, "")
	return begin(t, socket, op, body, script)
}

// await waits until so much output has come.
func (c *call) await(stdout string) *call {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return c.stdout.String() == stdout }, 20*time.Second, time.Millisecond,
		"the output is %q", &c.stdout)
	return c
}

// end waits for the result.
func (c *call) end() *call {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience + time.Second):
		require.FailNow(c.t, "the call does not end")
	}
	return c
}

func (c *call) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// run makes a stage's call with a script.
func run(t *testing.T, socket, stage, text string) *call {
	t.Helper()
	op, body, script := stageOf(stage, text)
	return begin(t, socket, op, body, script).end()
}

// echoes makes sure that the executor at socket works.
func echoes(t *testing.T, socket string) {
	t.Helper()
	c := run(t, socket, "echo", "x")
	require.NoError(t, c.err)
	require.Equal(t, "x", c.stdout.String())
}

// prepare and cleanup make and end a sandbox.
func prepare(t *testing.T, socket string) {
	t.Helper()
	op, body, response := prepareOf("{}")
	require.NoError(t, begin(t, socket, op, body, response).end().err)
}

func cleanUp(t *testing.T, socket string) {
	t.Helper()
	op, body, none := cleanupOf()
	require.NoError(t, begin(t, socket, op, body, none).end().err)
}

// driverMain is a driver process: it runs the stage of its second argument over the socket of its first and prints
// what it gets. With a third argument it reads nothing once it is connected.
func driverMain() error {
	ctx := context.Background()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", os.Args[1])
	if err != nil {
		return err
	}
	ears := &deafened{Conn: conn}
	client, err := api.NewClient(ctx, ears)
	if err != nil {
		return err
	}
	ears.deaf.Store(len(os.Args) > 3)
	streams := api.Streams{Stdout: os.Stdout, Stderr: os.Stderr}
	op, body, _ := stageOf(os.Args[2], "")
	class, isPrepare := strings.CutPrefix(os.Args[2], "prepare:")
	switch {
	case isPrepare:
		op, body = api.OpPrepare, any(api.Prepare{Handle: "1-x", RunnerClass: class})
	case os.Args[2] == "images":
		_, err := api.Ask(ctx, client, api.ListImages, api.Nothing{})
		return err
	case os.Args[2] == "stuff": // stdin that nobody reads
		op, body, streams.Stdin = api.OpSandbox, any(api.Sandbox{Command: []string{"hang"}}), rand.Reader
	}
	_, err = client.Call(ctx, op, body, streams)
	return err
}

// deafened is a connection whose reading side stands still on demand.
type deafened struct {
	net.Conn
	deaf atomic.Bool
}

// Read sleeps: a process of which everything waits for ever would be ended by Go's runtime as a deadlock.
func (d *deafened) Read(p []byte) (int, error) {
	for d.deaf.Load() {
		time.Sleep(time.Hour)
	}
	return d.Conn.Read(p)
}
