package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

// A caller that breaks the rules of a call ends that call, and no other.
func TestACallersMistakesEndTheCallAlone(t *testing.T) {
	session := rawSession(t, func(ctx context.Context, call *Call) (int, error) {
		if call.Op == Reap.Op {
			return 9, nil
		}
		<-ctx.Done()
		return 0, errors.New("what the handler makes of it tells nobody anything")
	})
	opened := func(op Op) []byte { return encoded(frameRequest, `{"op":"`+string(op)+`","body":{}}`) }
	for name, c := range map[string]struct {
		wire [][]byte
		says string
	}{
		"no request":                {[][]byte{encoded(frameData, "x")}, "a frame of type 2 opens no call"},
		"an unknown frame":          {[][]byte{encoded(99, "x")}, "a frame of type 99 opens no call"},
		"an empty request":          {[][]byte{encoded(frameRequest, "")}, "a request that cannot be read"},
		"a request of garbage":      {[][]byte{encoded(frameRequest, `{"op":`)}, "a request that cannot be read"},
		"a request of another type": {[][]byte{encoded(frameRequest, `{"op":{"op":1}}`)}, "a request that cannot be read"},
		"a huge request":            {[][]byte{{byte(frameRequest), 0, 0x10, 0, 1}}, "claims 1048577 bytes, at most 1048576"},
		"a gigantic request":        {[][]byte{{byte(frameRequest), 0xff, 0xff, 0xff, 0xff}}, "claims 4294967295 bytes"},
		"a second request":          {[][]byte{opened(OpRun), opened(OpRun)}, "a frame of type 1 within a call"},
		"output":                    {[][]byte{opened(OpRun), encoded(frameStdout, "x")}, "a frame of type 6 within a call"},
		"a result":                  {[][]byte{opened(OpRun), encoded(frameResult, "{}")}, "a frame of type 8 within a call"},
		"an unknown frame within":   {[][]byte{opened(OpRun), encoded(200, "")}, "a frame of type 200 within a call"},
		"large data":                {[][]byte{opened(OpRun), {byte(frameData), 0, 1, 0, 1}}, "claims 65537 bytes, at most 65536"},
		"gigantic data":             {[][]byte{opened(OpRun), {byte(frameData), 0xff, 0xff, 0xff, 0xff}}, "claims 4294967295 bytes"},
		"data after its end":        {[][]byte{opened(OpRun), encoded(frameEnd, ""), encoded(frameData, "x")}, "data after its end"},
		"two ends":                  {[][]byte{opened(OpRun), encoded(frameEnd, ""), encoded(frameEnd, "")}, "a frame of type 3 within a call"},
		"data for a pull":           {[][]byte{opened(OpPull), encoded(frameData, "x")}, "data in a call that takes none"},
		"data for a clean-up":       {[][]byte{opened(OpCleanup), encoded(frameData, "")}, "data in a call that takes none"},
		"data for a question":       {[][]byte{opened(ListImages.Op), encoded(frameData, "x")}, "data in a call that takes none"},
		"data for no call of ours":  {[][]byte{opened("teapot"), encoded(frameData, "x")}, "data in a call that takes none"},
		"no signal":                 {[][]byte{opened(OpRun), encoded(frameSignal, "")}, `"" is no signal`},
		"signal 0":                  {[][]byte{opened(OpRun), encoded(frameSignal, "0")}, `"0" is no signal`},
		"signal -9":                 {[][]byte{opened(OpRun), encoded(frameSignal, "-9")}, `"-9" is no signal`},
		"signal 65":                 {[][]byte{opened(OpCleanup), encoded(frameSignal, "65")}, `"65" is no signal`},
		"a signal's name":           {[][]byte{opened(OpRun), encoded(frameSignal, `"TERM"`)}, `"\"TERM\"" is no signal`},
		"a size of garbage":         {[][]byte{opened(OpShell), encoded(frameResize, `{"rows":-1}`)}, "a size of a terminal that cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, end := rawResult(t, rawCall(t, session, c.wire...))
			require.NotNil(t, end.Failure)
			require.Contains(t, end.Failure.Message, "the caller broke the protocol: ")
			require.Contains(t, end.Failure.Message, c.says)
			require.Contains(t, end.Failure.Message, "(the driver and the service must be of one release)")
			require.Equal(t, fault.System.String(), end.Failure.Class)
			require.False(t, end.Failure.NotBegun)

			_, end = rawResult(t, rawCall(t, session, encoded(frameRequest, `{"op":"reap"}`)))
			require.Equal(t, result{Status: 9}, end, "the connection goes on")
		})
	}
}

// What no honest caller's yamux sends ends its connection.
func TestFloodsBelowTheProtocol(t *testing.T) {
	const (
		data, windowUpdate, ping, goAway = 0, 1, 2, 3
		syn, ack, fin, rst               = 1, 2, 4, 8
	)
	header := func(typ byte, flags uint16, stream, length uint32) []byte {
		h := make([]byte, 12)
		h[1] = typ
		binary.BigEndian.PutUint16(h[2:], flags)
		binary.BigEndian.PutUint32(h[4:], stream)
		binary.BigEndian.PutUint32(h[8:], length)
		return h
	}
	next := uint32(1)
	everNew := func(typ byte, flags uint16, body string) func() []byte {
		return func() []byte { next += 2; return append(header(typ, flags, next, uint32(len(body))), body...) }
	}
	once := func(b []byte) func() []byte { return func() []byte { return b } }
	for name, flood := range map[string]func() []byte{
		"pings":                    once(header(ping, syn, 0, 1)),
		"answers to no ping":       once(header(ping, ack, 0, 1)),
		"streams":                  everNew(windowUpdate, syn, ""),
		"streams of data":          everNew(data, syn, strings.Repeat("x", 1000)),
		"the same stream":          once(header(windowUpdate, syn, 9, 0)),
		"streams that end at once": everNew(data, syn|fin, ""),
		"streams that are reset":   everNew(windowUpdate, syn|rst, ""),
		"data of no stream":        once(append(header(data, 0, 77, 4), "data"...)),
		"windows":                  once(header(windowUpdate, 0, 1, 0xffffffff)),
		"too much data":            once(header(data, 0, 1, frame.Window+1)),
		"ends":                     once(header(windowUpdate, fin, 1, 0)),
		"goodbyes":                 once(header(goAway, 0, 0, 0)),
		"unknown frames":           once(header(9, 0, 0, 0)),
		"another version":          once(append([]byte{7}, header(data, 0, 1, 0)[1:]...)),
		"garbage":                  once(bytes.Repeat([]byte{0xa5}, 4096)),
	} {
		for _, reads := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				conn := serveCaller(t, ours, func(context.Context, *Call) (int, error) { return 0, nil })
				drained := make(chan struct{})
				go func() {
					defer close(drained)
					if reads {
						_, _ = io.Copy(io.Discard, conn)
					}
				}()
				var block []byte
				for len(block) < 128<<10 { // ten thousand streams
					block = append(block, flood()...)
				}
				stop := heapPeak()
				require.NoError(t, conn.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
				for written := 0; written < 64<<20; written += len(block) {
					if _, err := conn.Write(block); err != nil {
						break // it hung up, or takes no more
					}
				}
				require.Less(t, stop(), uint64(8<<20))
				require.NoError(t, conn.Close())
				<-drained
			})
		}
	}
}

// Whatever a caller leaves half said, somebody else's calls go on, and nothing is left when it goes.
func TestHalfMessages(t *testing.T) {
	c := dialed(t, func(ctx context.Context, call *Call) (int, error) { return 5, nil })
	request := encoded(frameRequest, `{"op":"run"}`)
	for name, wire := range map[string][]byte{
		"nothing":                        {},
		"half a header of yamux":         {0, 1, 0},
		"a stream and nothing in it":     {0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"a claim of data":                {0, 0, 0, 1, 0, 0, 0, 1, 0, 4, 0, 0},
		"half the claimed data":          append([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 4, 0, 0}, request...),
		"half a header of a frame":       {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, byte(frameRequest), 0},
		"half a request":                 append([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, byte(len(request) - 3)}, request[:len(request)-3]...),
		"a claim of the largest request": {0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5, byte(frameRequest), 0, 0x10, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			caller, executor := connected(t)
			served := make(chan struct{})
			go func() {
				defer close(served)
				ServeConn(executor, ours, func(context.Context, *Call) (int, error) { return 0, nil })
			}()
			_, err := caller.Write(wire)
			require.NoError(t, err)
			status, err := c.Call(t.Context(), OpRun, Run{}, sinks())
			require.NoError(t, err)
			require.Equal(t, 5, status)
			require.NoError(t, caller.Close())
			await(t, served, "the end of the connection")
		})
	}
}

// A stream counts until its caller has ended it: what it holds cannot pile up.
func TestStreamsThatAreNeverEnded(t *testing.T) {
	var handled atomic.Int32
	session := rawSession(t, func(context.Context, *Call) (int, error) { handled.Add(1); return 0, errors.New("no") })
	for range maxCalls {
		stream := rawCall(t, session, encoded(frameRequest, `{"op":"run"}`))
		_, _, err := frame.Read(stream, make([]byte, MaxChunk))
		require.NoError(t, err, "the result")
	}
	require.EqualValues(t, maxCalls, handled.Load())
	_, _ = session.OpenStream()
	select {
	case <-session.CloseChan():
	case <-time.After(10 * time.Second):
		require.Fail(t, "one more stream was taken")
	}
}

// Connections of hostile callers that send all that they can and read nothing hold little each.
func TestHostileConnectionsHoldLittle(t *testing.T) {
	defer goleak.VerifyNone(t)
	const connections, perConnection = 20, 8 << 20
	var all, servers sync.WaitGroup
	var conns []net.Conn
	closed := make(chan struct{})
	stop := heapPeak()
	for range connections {
		caller, executor := connected(t)
		conns = append(conns, caller)
		servers.Go(func() {
			ServeConn(executor, ours, func(ctx context.Context, _ *Call) (int, error) { <-ctx.Done(); return 0, nil })
		})
		session, err := yamux.Client(readsNothing{caller, closed}, settings())
		require.NoError(t, err)
		all.Go(func() {
			defer func() { _ = session.Close() }()
			fill(session)
		})
	}
	time.Sleep(1500 * time.Millisecond)
	peak := stop()
	close(closed)
	for _, conn := range conns {
		_ = conn.Close()
	}
	all.Wait()
	servers.Wait()
	require.Less(t, peak, uint64(connections*perConnection))
	t.Logf("%d KiB each", peak/connections>>10)
}

// fill opens as many streams as it can, and fills each of their windows.
func fill(session *yamux.Session) {
	var writers sync.WaitGroup
	for i := range maxCalls {
		stream, err := session.OpenStream()
		if err != nil {
			break
		}
		writers.Go(func() {
			if i == 0 {
				_, _ = stream.Write(encoded(frameRequest, `{"op":"hello"}`))
			} else {
				_, _ = stream.Write(encoded(frameRequest, `{"op":"run"}`))
			}
			for {
				if _, err := stream.Write(encoded(frameData, strings.Repeat("x", 1000))); err != nil {
					return
				}
			}
		})
	}
	writers.Wait()
}

// readsNothing is a connection whose owner does not read, until it is closed.
type readsNothing struct {
	net.Conn
	closed chan struct{}
}

func (r readsNothing) Read([]byte) (int, error) {
	<-r.closed
	return 0, io.EOF
}

// A flood within a call keeps neither the handler's own streams nor other calls from going on.
func TestFloodsWithinACall(t *testing.T) {
	for name, wire := range map[string][]byte{
		"empty data": encoded(frameData, ""),
		"tiny data":  encoded(frameData, "x"),
		"signals":    encoded(frameSignal, "10"),
		"sizes":      encoded(frameResize, "{}"),
	} {
		t.Run(name, func(t *testing.T) {
			causes := make(chan error, 1)
			waiting := untilGone(causes)
			session := rawSession(t, func(ctx context.Context, call *Call) (int, error) {
				if call.Op == Reap.Op {
					return 9, nil
				}
				return waiting(ctx, call)
			})
			stop := heapPeak()
			stream := rawCall(t, session, encoded(frameRequest, `{"op":"shell"}`))
			require.NoError(t, stream.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
			block := bytes.Repeat(wire, 4000)
			for written := 0; written < 32<<20; written += len(block) {
				if _, err := stream.Write(block); err != nil {
					break // held back
				}
			}
			_, end := rawResult(t, rawCall(t, session, encoded(frameRequest, `{"op":"reap"}`)))
			require.Equal(t, result{Status: 9}, end)
			require.NoError(t, stream.Close())
			require.Equal(t, ErrCallerGone, await(t, causes, "the end of the call"))
			require.Less(t, stop(), uint64(8<<20))
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(encoded(frameRequest, `{"op":"run","body":{"handle":"1-a","stage":"build_script"}}`))
	f.Add(encoded(frameRequest, `{"op":"hello","body":null}`))
	f.Add(encoded(frameData, "x"))
	f.Add([]byte{byte(frameRequest), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		open, err := parseRequest(bytes.NewReader(wire))
		if err != nil {
			require.Equal(t, request{}, open)
			return
		}
		require.LessOrEqual(t, len(open.Body), len(wire))
		for _, v := range []any{&Prepare{}, &Run{}, &Sandbox{}, &Shell{}, &Import{}, &Events{}, &PinRequest{}} {
			if err := (&Call{Op: open.Op, body: open.Body}).Decode(v); err != nil {
				require.Equal(t, fault.System, fault.ClassOf(err))
			}
		}
	})
}

func FuzzInputs(f *testing.F) {
	join := func(all ...[]byte) []byte { return bytes.Join(all, nil) }
	f.Add("run", join(encoded(frameData, "one"), encoded(frameSignal, "15"), encoded(frameData, "two"), encoded(frameEnd, "")))
	f.Add("shell", join(encoded(frameResize, `{"rows":1,"columns":2}`), encoded(frameEnd, ""), encoded(frameSignal, "64")))
	f.Add("pull", join(encoded(frameSignal, "15"), encoded(frameData, "x")))
	f.Add("cleanup", join(encoded(frameSignal, "9"), encoded(frameEnd, ""), encoded(frameEnd, "")))
	f.Add("import", []byte{byte(frameData), 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, op string, wire []byte) {
		rules := rulesOf(Op(op))
		ctx, cancel := context.WithCancelCause(t.Context())
		in := newInputs(ctx, rules, cancel)
		received := make(chan struct{})
		go func() { defer close(received); in.receive(bytes.NewReader(wire)) }()
		data, err := io.ReadAll(in)
		<-received
		require.ErrorIs(t, ctx.Err(), context.Canceled, "the stream has ended")
		require.True(t, rules.data || len(data) == 0)
		require.LessOrEqual(t, len(data), len(wire))
		if err == nil {
			require.True(t, in.hasEnded(), "without its end the data is not whole")
		} else {
			require.Equal(t, context.Cause(ctx), err)
		}
		in.close()
		for signal := range in.signals {
			require.Equal(t, signalForwarded, rules.signal)
			require.True(t, signal >= 1 && signal <= 64, signal)
		}
		for size := range in.resizes {
			require.NotNil(t, size)
		}
	})
}

func FuzzReceive(f *testing.F) {
	join := func(all ...[]byte) []byte { return bytes.Join(all, nil) }
	f.Add(join(encoded(frameStdout, "out"), encoded(frameStderr, "err"), encoded(frameResult, `{"status":3}`)))
	f.Add(encoded(frameResult, `{"failure":{"class":"author","message":"m","not_begun":true}}`))
	f.Add(encoded(frameStdout, strings.Repeat("x", 300)))
	f.Add([]byte{byte(frameStderr), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		var stdout, stderr bytes.Buffer
		end, err := receive(bytes.NewReader(wire), Streams{Stdout: &stdout, Stderr: &stderr})
		require.LessOrEqual(t, stdout.Len()+stderr.Len(), len(wire))
		if err != nil {
			require.Equal(t, result{}, end)
			return
		}
		again, err := json.Marshal(end)
		require.NoError(t, err)
		require.NotEmpty(t, again)
		if end.Failure != nil {
			failure := end.Failure.err()
			require.NotEmpty(t, failure.Error())
			require.Equal(t, end.Failure.NotBegun, errors.Is(failure, ErrNotBegun))
			require.NotErrorIs(t, failure, ErrLost)
		}
	})
}
