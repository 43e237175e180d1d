package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/internal/frame"
)

func ours() (Version, error) {
	return Version{Protocol: ProtocolVersion, Version: "v1", Instance: "one"}, nil
}

// connected returns both ends of a connection over a real socket.
func connected(t testing.TB) (caller, executor net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	caller, err = net.Dial("unix", listener.Addr().String())
	require.NoError(t, err)
	executor, err = listener.Accept()
	require.NoError(t, err)
	return caller, executor
}

// serveCaller serves one connection and returns its other end. When the test ends, the connection is closed, and nothing
// may be left of it.
func serveCaller(t testing.TB, greet func() (Version, error), handle Handler) net.Conn {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	caller, executor := connected(t)
	served := make(chan struct{})
	go func() { defer close(served); ServeConn(executor, greet, handle) }()
	t.Cleanup(func() {
		_ = caller.Close()
		select {
		case <-served:
		case <-time.After(20 * time.Second):
			require.Fail(t, "the connection is served although its caller is gone")
		}
	})
	return caller
}

// dialed is a client of an executor that handles calls so.
func dialed(t testing.TB, handle Handler) *Client {
	t.Helper()
	c, err := NewClient(t.Context(), serveCaller(t, ours, handle))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// sinks are the streams of a call of which only the result matters.
func sinks() Streams { return Streams{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}} }

// await waits for what must come soon.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		require.Fail(t, "it never came: "+what)
		panic("unreachable")
	}
}

// encoded is a frame as it goes over the wire.
func encoded(typ frame.Type, payload string) []byte {
	var b bytes.Buffer
	_ = frame.Write(&b, typ, []byte(payload))
	return b.Bytes()
}

// rawSession is a caller that sends what it likes, after a proper greeting.
func rawSession(t testing.TB, handle Handler) *yamux.Session {
	t.Helper()
	config := settings()
	config.AcceptBacklog = 1 << 14
	session, err := yamux.Client(serveCaller(t, ours, handle), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close() })
	typ, _ := rawResult(t, rawCall(t, session, encoded(frameRequest, `{"op":"hello","body":{"protocol":2}}`)))
	require.Equal(t, frameResult, typ)
	return session
}

// rawCall opens a stream and sends bytes.
func rawCall(t testing.TB, session *yamux.Session, wire ...[]byte) *yamux.Stream {
	t.Helper()
	stream, err := session.OpenStream()
	require.NoError(t, err)
	for _, w := range wire {
		_, err = stream.Write(w)
		require.NoError(t, err)
	}
	return stream
}

// rawResult reads a stream up to its result, and closes it.
func rawResult(t testing.TB, stream *yamux.Stream) (frame.Type, result) {
	t.Helper()
	require.NoError(t, stream.SetReadDeadline(time.Now().Add(20*time.Second)))
	for {
		typ, payload, err := frame.Read(stream, make([]byte, MaxChunk))
		require.NoError(t, err)
		if typ != frameResult {
			continue
		}
		var end result
		require.NoError(t, json.Unmarshal(payload, &end))
		require.NoError(t, stream.Close())
		return typ, end
	}
}

// untilGone is a handler that waits for the end of its call and tells its cause.
func untilGone(causes chan<- error) Handler {
	return func(ctx context.Context, _ *Call) (int, error) {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return 0, context.Cause(ctx)
	}
}

// heapPeak returns the most memory of the heap, above what there is now, until the returned function is called.
func heapPeak() (stop func() uint64) {
	use := func() uint64 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapInuse
	}
	percent := debug.SetGCPercent(10) // what is garbage does not count
	runtime.GC()
	before, peak := use(), uint64(0)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			peak = max(peak, use())
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() uint64 {
		close(done)
		watching.Wait()
		debug.SetGCPercent(percent)
		return peak - min(peak, before)
	}
}
