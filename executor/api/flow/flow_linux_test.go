package flow

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/executor/client/hosttest"
)

// call opens a Call of a real host that runs a line of shell.
func call(t *testing.T, line string) (*Conn, *Queue[*api.ServerFrame]) {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "unix", hosttest.Serve(t, &hosttest.Host{}))
	require.NoError(t, err)
	conn := NewConn(raw)
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		conn.Stop()
		_ = client.Close()
	})
	stream, err := hostpb.NewHostClient(client).Call(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Sandbox{
		Sandbox: &api.Sandbox{Command: []string{"sh", "-c", line}},
	}}))
	return conn, Frames(conn, stream.Recv)
}

func (c *Conn) nowWaiting() int {
	c.room.mu.Lock()
	defer c.room.mu.Unlock()
	return c.room.waiting
}

// A consumer that stalls for longer than ttrpc's own second holds the sender back, in bounded memory, and
// loses nothing.
func TestAStalledConsumerHoldsTheSenderBack(t *testing.T) {
	const size = 32 << 20
	conn, frames := call(t, fmt.Sprintf("head -c %d /dev/zero", size))
	stalled, got := false, 0
	var result *api.Result
	require.NoError(t, frames.Each(func(frame *api.ServerFrame) error {
		if !stalled {
			stalled = true
			time.Sleep(2500 * time.Millisecond)
			waiting := conn.nowWaiting()
			require.Greater(t, waiting, highWater, "there was nothing to hold back")
			// ttrpc reads on until its own queue of 64 frames, which are not counted there, is full.
			require.Less(t, waiting, highWater+64*api.MaxChunk, "memory is not bounded")
		}
		got += len(frame.GetStdout())
		result = frame.GetResult()
		return nil
	}))
	require.Equal(t, size, got)
	require.True(t, result.GetOk())
	require.Zero(t, conn.nowWaiting())
}

func TestAConsumersErrorIsReturned(t *testing.T) {
	_, frames := call(t, "yes")
	broken := errors.New("nobody reads")
	require.ErrorIs(t, frames.Each(func(*api.ServerFrame) error { return broken }), broken)
}

func TestStopEndsAReadThatWaitsForRoom(t *testing.T) {
	ours, _ := net.Pipe()
	defer ours.Close()
	conn := NewConn(ours)
	conn.room.add(highWater)
	read := make(chan error)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	select {
	case err := <-read:
		require.Fail(t, "it read although it is full", "%v", err)
	case <-time.After(50 * time.Millisecond):
	}
	conn.Stop()
	require.ErrorIs(t, <-read, io.EOF)
}
