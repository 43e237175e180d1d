package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"pgregory.net/rapid"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/fault"
)

// stages is a backend whose stages are functions.
type stages struct {
	Backend // what no test calls
	mu      sync.Mutex
	run     map[string]func(ctx context.Context, script []byte, streams api.Streams) (int32, error)
	begun   map[string]int
}

func (b *stages) Version() *api.VersionReply { return &api.VersionReply{} }

func (b *stages) List(context.Context) ([]*api.SandboxInfo, error) { return nil, nil }

func (b *stages) Run(ctx context.Context, req *api.Run, script []byte, streams api.Streams) (int32, error) {
	b.mu.Lock()
	b.begun[req.GetStage()]++
	run := b.run[req.GetStage()]
	b.mu.Unlock()
	return run(ctx, script, streams)
}

func (b *stages) add(stage string, run func(ctx context.Context, script []byte, streams api.Streams) (int32, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.run[stage] = run
}

func (b *stages) timesBegun(stage string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.begun[stage]
}

// bench is a service behind a real gRPC connection in memory.
type bench struct {
	*stages
	service *service
	client  executorpb.ExecutorClient
	ids     int
}

func newBench(t *testing.T, grace time.Duration) *bench {
	t.Helper()
	backend := &stages{
		run:   map[string]func(context.Context, []byte, api.Streams) (int32, error){},
		begun: map[string]int{},
	}
	b := &bench{stages: backend, service: newService(backend, zerolog.Nop())}
	b.service.grace = grace
	server := grpc.NewServer(serverOptions(zerolog.Nop())...)
	executorpb.RegisterExecutorServer(server, b.service)
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///executor", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	b.client = executorpb.NewExecutorClient(conn)
	return b
}

func (b *bench) newID() string {
	b.ids++
	return fmt.Sprintf("%032x", b.ids)
}

// attached is a stream of a host that can vanish.
type attached struct {
	executorpb.Executor_CallClient
	cancel context.CancelFunc
}

// vanish returns when the executor will hear of it before anything else.
func (a *attached) vanish() {
	a.cancel()
	for {
		if _, err := a.Recv(); err != nil {
			return
		}
	}
}

func (b *bench) call(t require.TestingT, frames ...*api.ClientFrame) *attached {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := b.client.Call(ctx)
	require.NoError(t, err)
	for _, frame := range frames {
		require.NoError(t, stream.Send(frame))
	}
	return &attached{stream, cancel}
}

func (b *bench) open(t require.TestingT, id, stage string) *attached {
	run := &api.Run{Handle: "1-a", Stage: stage, CallId: id}
	return b.call(t, &api.ClientFrame{Kind: &api.ClientFrame_Run{Run: run}},
		&api.ClientFrame{Kind: &api.ClientFrame_Data{Data: []byte("text")}},
		&api.ClientFrame{Kind: &api.ClientFrame_End{End: true}})
}

func (b *bench) resume(t require.TestingT, resume *api.Resume) *attached {
	return b.call(t, &api.ClientFrame{Kind: &api.ClientFrame_Resume{Resume: resume}})
}

func ackFrame(n uint64) *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Ack{Ack: n}}
}

func hangupFrame() *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Hangup{Hangup: true}}
}

func signalFrame(n uint32) *api.ClientFrame {
	return &api.ClientFrame{Kind: &api.ClientFrame_Signal{Signal: n}}
}

// resultOf receives a stream's result, which must be the next frame.
func resultOf(t require.TestingT, stream *attached) *api.Result {
	frame, err := stream.Recv()
	require.NoError(t, err)
	require.NotNil(t, frame.GetResult(), "%v", frame)
	return frame.GetResult()
}

// waitFor is a stage that ends with its context, and tells why.
func waitFor(causes chan<- error) func(context.Context, []byte, api.Streams) (int32, error) {
	return func(ctx context.Context, _ []byte, streams api.Streams) (int32, error) {
		_, _ = io.WriteString(streams.Stdout, "started")
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return 0, fault.Systemf("%w", context.Cause(ctx))
	}
}

// Whatever a driver does between the begin and the end of a call - stay away, come back, acknowledge late, read
// half of what was sent - it gets both streams byte for byte, each signal once, and the result.
func TestAnySequenceOfAttachmentsYieldsTheExactStreams(t *testing.T) {
	b := newBench(t, time.Minute)
	rapid.Check(t, func(t *rapid.T) {
		id := b.newID()
		writes := rapid.SliceOfN(rapid.IntRange(0, 3*api.MaxChunk), 0, 24).Draw(t, "writes")
		var want [2]bytes.Buffer
		signalled := make(chan int, 100)
		total := make(chan int, 1) // how many signals were sent
		b.add(id, func(_ context.Context, _ []byte, streams api.Streams) (int32, error) {
			for i, size := range writes {
				data := bytes.Repeat([]byte{byte(i)}, size)
				if n, err := []io.Writer{streams.Stdout, streams.Stderr}[i%2].Write(data); err != nil || n != size {
					return 0, fmt.Errorf("%d bytes were written: %w", n, err)
				}
				_, _ = want[i%2].Write(data)
				clear(data) // it is the writer's again
			}
			for range <-total {
				signalled <- <-streams.Signals
			}
			return 42, nil
		})
		d := &fakeDriver{t: t, bench: b, id: id}
		d.stream = b.open(t, id, id)
		t.Repeat(map[string]func(*rapid.T){
			"read": func(t *rapid.T) {
				if d.bytes < awaitable(writes) {
					d.read()
				}
			},
			"acknowledge": func(t *rapid.T) {
				d.acked = rapid.Uint64Range(d.acked, d.received).Draw(t, "count")
				d.send(ackFrame(d.acked))
			},
			"signal": func(t *rapid.T) {
				if len(d.signals) < signalsKept {
					signal := uint32(1 + len(d.signals))
					d.signals = append(d.signals, signal)
					d.send(signalFrame(signal))
				}
			},
			"lose the host": func(*rapid.T) { d.lose() },
			"come back":     func(*rapid.T) { d.comeBack() },
			"": func(t *rapid.T) {
				require.Equal(t, 1, max(1, b.timesBegun(id)), "the stage ran twice")
			},
		})
		d.lose()
		d.comeBack()
		total <- len(d.signals)
		for d.result == nil {
			d.read()
			d.acked = d.received
			d.send(ackFrame(d.acked))
		}
		for i := range d.signals {
			require.Equal(t, i+1, <-signalled)
		}
		require.EqualValues(t, 42, d.result.GetExitCode())
		require.Empty(t, signalled)
		for i := range want {
			require.True(t, bytes.Equal(want[i].Bytes(), d.got[i].Bytes()), "stream %d differs", i)
		}
		d.comeBack()
		d.send(hangupFrame())
		_, err := d.stream.Recv()
		require.ErrorIs(t, err, io.EOF)
	})
	require.Zero(t, b.service.pendingCalls())
}

// awaitable is how many bytes come even if none is acknowledged.
func awaitable(writes []int) (n int) {
	for _, size := range writes {
		n += size
	}
	return min(n, api.Window/2)
}

// fakeDriver does what a driver and its host do, step by step.
type fakeDriver struct {
	t               require.TestingT
	bench           *bench
	id              string
	stream          *attached // nil: the host has gone
	received, acked uint64
	bytes           int
	signals         []uint32
	got             [2]bytes.Buffer
	result          *api.Result
}

func (d *fakeDriver) read() {
	if d.stream == nil {
		return
	}
	frame, err := d.stream.Recv()
	if err != nil { // an earlier attachment arrived late, and took the call
		require.ErrorContains(d.t, err, errElsewhere.Error())
		d.lose()
		d.comeBack()
		d.read()
		return
	}
	if frame.GetResult().GetUnknown() && d.received == 0 {
		d.lose()
		d.stream = d.bench.open(d.t, d.id, d.id) // the opening had got lost
		for _, signal := range d.signals {
			d.send(signalFrame(signal))
		}
		d.read()
		return
	}
	d.received++
	d.bytes += len(frame.GetStdout()) + len(frame.GetStderr())
	_, _ = d.got[0].Write(frame.GetStdout())
	_, _ = d.got[1].Write(frame.GetStderr())
	d.result = frame.GetResult()
}

func (d *fakeDriver) send(frame *api.ClientFrame) {
	if d.stream != nil {
		_ = d.stream.Send(frame) // what gets lost is told again
	}
}

// lose ends the stream, with whatever is on its way in either direction.
func (d *fakeDriver) lose() {
	if d.stream != nil {
		d.stream.vanish()
		d.stream = nil
	}
}

func (d *fakeDriver) comeBack() {
	if d.stream == nil {
		d.stream = d.bench.resume(d.t, &api.Resume{
			CallId: d.id, Received: d.received, Acknowledged: d.acked, Signals: d.signals,
		})
	}
}

func TestAHangUpEndsTheCallAtOnce(t *testing.T) {
	b := newBench(t, time.Minute)
	causes := make(chan error, 1)
	b.add("wait", waitFor(causes))
	id := b.newID()
	stream := b.open(t, id, "wait")
	_, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 1, b.service.pendingCalls())
	require.NoError(t, stream.Send(hangupFrame()))
	require.ErrorIs(t, <-causes, ErrCallerGone)
	_, err = stream.Recv()
	require.ErrorIs(t, err, io.EOF)
	require.Zero(t, b.service.pendingCalls())

	err = wire.ResultError(resultOf(t, b.resume(t, &api.Resume{CallId: id})))
	require.ErrorContains(t, err, "given up")
	require.Equal(t, fault.System, fault.ClassOf(err))
}

func TestADriverThatStaysAwayLosesItsCall(t *testing.T) {
	b := newBench(t, 50*time.Millisecond)
	causes := make(chan error, 1)
	b.add("wait", waitFor(causes))
	b.add("flood", func(ctx context.Context, _ []byte, streams api.Streams) (int32, error) {
		for {
			if _, err := streams.Stdout.Write(make([]byte, 1<<20)); err != nil {
				causes <- err
				return 0, err
			}
		}
	})
	for _, stage := range []string{"wait", "flood"} {
		id := b.newID()
		stream := b.open(t, id, stage)
		_, err := stream.Recv()
		require.NoError(t, err)
		stream.vanish()
		require.ErrorIs(t, <-causes, ErrDriverLost, stage)
		// It must not be taken for a call that never began.
		result := resultOf(t, b.resume(t, &api.Resume{CallId: id}))
		require.False(t, result.GetUnknown())
		require.ErrorContains(t, wire.ResultError(result), ErrDriverLost.Error())
		require.Equal(t, 1, b.timesBegun(stage))
	}
	require.Zero(t, b.service.pendingCalls())
}

func TestAResultWaitsForItsDriver(t *testing.T) {
	b := newBench(t, time.Minute)
	b.add("echo", func(_ context.Context, script []byte, streams api.Streams) (int32, error) {
		_, _ = streams.Stdout.Write(script)
		return 7, nil
	})
	id := b.newID()
	first := b.open(t, id, "echo")
	require.Eventually(t, func() bool { return b.timesBegun("echo") == 1 }, 10*time.Second, time.Millisecond)
	first.vanish()
	for range 2 { // the first answer may be lost too
		stream := b.resume(t, &api.Resume{CallId: id})
		frame, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, "text", string(frame.GetStdout()))
		require.EqualValues(t, 7, resultOf(t, stream).GetExitCode())
		stream.vanish()
	}
}

func TestTheLaterOfTwoAttachmentsWins(t *testing.T) {
	b := newBench(t, time.Minute)
	causes := make(chan error, 1)
	b.add("wait", waitFor(causes))
	id := b.newID()
	first := b.open(t, id, "wait")
	_, err := first.Recv()
	require.NoError(t, err)
	second := b.resume(t, &api.Resume{CallId: id})
	frame, err := second.Recv()
	require.NoError(t, err)
	require.Equal(t, "started", string(frame.GetStdout()))
	_, err = first.Recv()
	require.ErrorContains(t, err, errElsewhere.Error())
	third := b.resume(t, &api.Resume{CallId: id, Received: 1})
	_, err = second.Recv()
	require.ErrorContains(t, err, errElsewhere.Error())
	first.vanish() // that the earlier ones end means nothing
	second.vanish()
	require.NoError(t, third.Send(hangupFrame()))
	require.ErrorIs(t, <-causes, ErrCallerGone)
}

func TestAnOpeningThatComesTwiceRunsOnce(t *testing.T) {
	b := newBench(t, time.Minute)
	causes := make(chan error, 1)
	b.add("wait", waitFor(causes))
	id := b.newID()
	first := b.open(t, id, "wait")
	_, err := first.Recv()
	require.NoError(t, err)
	first.vanish()
	second := b.open(t, id, "wait")
	_, err = second.Recv()
	require.NoError(t, err)
	require.Equal(t, 1, b.timesBegun("wait"))
	require.NoError(t, second.Send(hangupFrame()))
	<-causes
}

func TestACallWhoseInputGotLostNeverBegan(t *testing.T) {
	b := newBench(t, time.Minute)
	run := &api.ClientFrame{Kind: &api.ClientFrame_Run{Run: &api.Run{Stage: "never", CallId: b.newID()}}}
	stream := b.call(t, run, &api.ClientFrame{Kind: &api.ClientFrame_Data{Data: []byte("half a scr")}})
	stream.vanish()
	for _, id := range []string{run.GetRun().GetCallId(), b.newID(), ""} {
		result := resultOf(t, b.resume(t, &api.Resume{CallId: id}))
		require.True(t, result.GetUnknown())
		require.ErrorContains(t, wire.ResultError(result), "does not know this call")
	}
	require.Zero(t, b.timesBegun("never"))
}

func TestWhatNoDriverOfOursSends(t *testing.T) {
	b := newBench(t, time.Minute)
	causes := make(chan error, 10)
	b.add("wait", waitFor(causes))
	for name, frame := range map[string]*api.ClientFrame{
		"an acknowledgement of the future": ackFrame(2),
		"data after its end":               {Kind: &api.ClientFrame_Data{Data: []byte("x")}},
		"an opening within the call":       {Kind: &api.ClientFrame_Cleanup{Cleanup: &api.Cleanup{}}},
	} {
		stream := b.open(t, b.newID(), "wait")
		_, err := stream.Recv()
		require.NoError(t, err)
		require.NoError(t, stream.Send(frame))
		require.ErrorContains(t, wire.ResultError(resultOf(t, stream)), "broke the protocol", name)
		stream.vanish()
	}
	id := b.newID()
	stream := b.open(t, id, "wait")
	_, err := stream.Recv()
	require.NoError(t, err)
	for _, resume := range []*api.Resume{{CallId: id, Received: 2}, {CallId: id, Received: 0, Acknowledged: 1}} {
		require.ErrorContains(t, wire.ResultError(resultOf(t, b.resume(t, resume))), "that cannot be")
	}
	require.NoError(t, stream.Send(hangupFrame())) // it is still attached
	for _, short := range []string{"ab", "not hexadecimal at all, but of 32"} {
		require.ErrorContains(t, wire.ResultError(resultOf(t, b.open(t, short, "wait"))), "32 hex digits")
	}
}

func TestAnExecutorThatStopsDoesNotWaitForDrivers(t *testing.T) {
	b := newBench(t, time.Minute)
	causes := make(chan error, 2)
	b.add("wait", waitFor(causes))
	staying := b.open(t, b.newID(), "wait")
	_, err := staying.Recv()
	require.NoError(t, err)
	b.add("flood", func(_ context.Context, _ []byte, streams api.Streams) (int32, error) {
		var err error
		for err == nil {
			_, err = streams.Stdout.Write(make([]byte, 1<<20))
		}
		causes <- err
		return 0, err
	})
	away := b.open(t, b.newID(), "flood")
	_, err = away.Recv()
	require.NoError(t, err)
	away.vanish()
	select {
	case <-b.service.stop():
	case <-time.After(5 * time.Second):
		require.Fail(t, "calls hold the executor")
	}
	for range 2 {
		require.ErrorIs(t, <-causes, ErrStopping)
	}
	require.ErrorContains(t, wire.ResultError(resultOf(t, staying)), ErrStopping.Error())
}

func TestABacklogHoldsWritersBack(t *testing.T) {
	b := newBacklog()
	frame := &api.ServerFrame{Kind: &api.ServerFrame_Stdout{Stdout: make([]byte, api.MaxChunk)}}
	sent := 0
	for {
		wait, err := b.offer(frame)
		require.NoError(t, err)
		if wait != nil {
			break
		}
		sent++
	}
	require.LessOrEqual(t, b.held, api.Window)
	require.Equal(t, api.Window/api.FrameCost(frame), sent)
	ended := make(chan error, 1)
	go func() { ended <- b.send(frame) }()
	require.NoError(t, b.acknowledge(1))
	require.NoError(t, <-ended)
	go func() { ended <- b.send(frame) }()
	b.end(&api.Result{}) // always fits
	require.ErrorIs(t, <-ended, errCallEnded)
	b.drop(ErrDriverLost)
	_, err := b.offer(frame)
	require.ErrorIs(t, err, ErrDriverLost)
	require.True(t, errors.Is(err, ErrDriverLost))
	require.Zero(t, b.held)
}
