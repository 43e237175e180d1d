package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// inputChunks is how many data frames wait for a backend that does not read its stdin; after that the
	// caller is held back, and a signal it sends behind them waits too.
	inputChunks = 16
	// signalsKept is how many signals wait for a backend that does not look; the oldest go first.
	signalsKept = 16
)

// inputs is what a caller sends within a call: data, which it presents as a reader, signals and terminal
// sizes. What may be sent depends on the opening frame; anything else ends the call.
type inputs struct {
	ctx    context.Context // ends all waiting
	cancel context.CancelCauseFunc
	rules  rules

	data    chan []byte // closed at the end of the data
	rest    []byte      // of the chunk being read
	signals chan int
	resizes chan *api.Resize

	endOnce sync.Once

	mu     sync.Mutex
	closed bool  // signals and resizes
	broken error // what the caller did wrong
	ended  bool  // the caller said that no more data follows
}

// rules are what a kind of call accepts.
type rules struct {
	data bool
	// signal says what a signal does: it is handed to the backend, cancels the call's context, or nothing.
	signal signalRule
}

type signalRule int

const (
	signalIgnored signalRule = iota
	signalCancels
	signalForwarded
)

func rulesOf(open *api.ClientFrame) rules {
	switch open.GetKind().(type) {
	case *api.ClientFrame_Prepare, *api.ClientFrame_Import:
		return rules{data: true, signal: signalCancels}
	case *api.ClientFrame_Run, *api.ClientFrame_Sandbox, *api.ClientFrame_Shell:
		return rules{data: true, signal: signalForwarded}
	case *api.ClientFrame_Pull:
		return rules{signal: signalCancels}
	default: // a clean-up goes on, whoever loses patience
		return rules{}
	}
}

func newInputs(ctx context.Context, open *api.ClientFrame, cancel context.CancelCauseFunc) *inputs {
	return &inputs{
		ctx: ctx, cancel: cancel, rules: rulesOf(open),
		data:    make(chan []byte, inputChunks),
		signals: make(chan int, signalsKept),
		resizes: make(chan *api.Resize, 1),
	}
}

// fill gives all of the data at once, in place of frames.
func (in *inputs) fill(data []byte) {
	in.rest, in.ended = data, true
	in.endData()
}

// receive takes frames until the stream or the call ends.
func (in *inputs) receive(recv func() (*api.ClientFrame, error)) {
	defer in.endData()
	for {
		frame, err := recv()
		if err != nil {
			return // the stream's context says the rest
		}
		if err := in.take(frame); err != nil {
			in.fail(err)
			return
		}
	}
}

func (in *inputs) take(frame *api.ClientFrame) error {
	switch kind := frame.GetKind().(type) {
	case *api.ClientFrame_Data:
		return in.takeData(kind.Data)
	case *api.ClientFrame_End:
		in.mu.Lock()
		in.ended = true
		in.mu.Unlock()
		in.endData()
	case *api.ClientFrame_Signal:
		in.takeSignal(int(kind.Signal))
	case *api.ClientFrame_Hangup:
		in.cancel(ErrCallerGone)
	case *api.ClientFrame_Resize:
		in.offer(func() { keepLatest(in.resizes, kind.Resize) })
	default:
		return fmt.Errorf("%T within a call", frame.GetKind())
	}
	return nil
}

func (in *inputs) takeData(data []byte) error {
	switch {
	case !in.rules.data:
		return errors.New("data in a call that takes none")
	case len(data) > api.MaxChunk:
		return fmt.Errorf("a data frame of %d bytes; at most %d are allowed", len(data), api.MaxChunk)
	case in.hasEnded():
		return errors.New("data after its end")
	}
	select {
	case in.data <- data:
	case <-in.ctx.Done():
	}
	return nil
}

func (in *inputs) takeSignal(signal int) {
	switch in.rules.signal {
	case signalForwarded:
		in.offer(func() { keepLatest(in.signals, signal) })
	case signalCancels:
		in.cancel(fmt.Errorf("the caller asked to stop (signal %d)", signal))
	}
}

// keepLatest puts v into a buffered channel and drops the oldest values that are in its way.
func keepLatest[T any](ch chan T, v T) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

// offer runs send unless the channels are closed already.
func (in *inputs) offer(send func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.closed {
		send()
	}
}

// endData closes the data channel. Only the receiving goroutine, which fills it, calls it.
func (in *inputs) endData() { in.endOnce.Do(func() { close(in.data) }) }

func (in *inputs) hasEnded() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ended
}

// fail ends the call because its caller broke the protocol.
func (in *inputs) fail(err error) {
	broken := fault.WithRemedy(fault.Systemf("the caller broke the protocol: %w", err),
		"the driver and the service must be of one release")
	in.mu.Lock()
	in.broken = broken
	in.mu.Unlock()
	in.cancel(broken)
}

// violation returns what the caller did wrong, if it did.
func (in *inputs) violation() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.broken
}

// Read implements io.Reader on the data: io.EOF after the caller's end, io.ErrUnexpectedEOF without one, the
// call's cause when the call ends first.
func (in *inputs) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		select {
		case chunk, ok := <-in.data:
			if !ok {
				return 0, in.endError()
			}
			in.rest = chunk
		case <-in.ctx.Done():
			return 0, context.Cause(in.ctx)
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

func (in *inputs) endError() error {
	if in.hasEnded() {
		return io.EOF
	}
	if in.ctx.Err() != nil {
		return context.Cause(in.ctx)
	}
	return io.ErrUnexpectedEOF
}

// close ends the signals and sizes when the call has ended.
func (in *inputs) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	close(in.signals)
	close(in.resizes)
}
