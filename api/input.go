package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/airlock-ci/airlock/internal/frame"
)

// inputs is what a caller sends within a call: data, which it presents as a reader, signals and terminal sizes. What may
// be sent depends on the call; anything else ends it.
type inputs struct {
	ctx    context.Context // ends all waiting
	cancel context.CancelCauseFunc
	rules  rules

	data    chan []byte // closed at the end of the data
	rest    []byte      // of the chunk being read
	signals chan int
	resizes chan *Resize

	mu     sync.Mutex
	closed bool  // signals and sizes
	wrong  error // what the caller did
	ended  bool  // the caller said that no more data follows
}

func newInputs(ctx context.Context, rules rules, cancel context.CancelCauseFunc) *inputs {
	return &inputs{
		ctx: ctx, cancel: cancel, rules: rules,
		data: make(chan []byte, inputChunks), signals: make(chan int, signalsKept), resizes: make(chan *Resize, 1),
	}
}

// receive takes frames until the stream or the call ends. A stream that ends first means that the caller has gone.
func (in *inputs) receive(stream io.Reader) {
	endData := sync.OnceFunc(func() { close(in.data) })
	defer endData()
	buf := make([]byte, MaxChunk)
	for {
		typ, payload, err := frame.Read(stream, buf)
		if errors.Is(err, frame.ErrProtocol) {
			in.fail(err)
			return
		}
		if err != nil {
			in.cancel(ErrCallerGone) // does nothing when the call has ended
			return
		}
		if typ == frameEnd && !in.hasEnded() {
			in.end()
			endData()
			continue
		}
		if err := in.take(typ, payload); err != nil {
			in.fail(err)
			return
		}
	}
}

func (in *inputs) take(typ frame.Type, payload []byte) error {
	switch typ {
	case frameData:
		return in.takeData(payload)
	case frameSignal:
		var signal int
		if err := json.Unmarshal(payload, &signal); err != nil || signal < 1 || signal > 64 {
			return fmt.Errorf("%q is no signal", payload)
		}
		in.takeSignal(signal)
		return nil
	case frameResize:
		var size Resize
		if err := json.Unmarshal(payload, &size); err != nil {
			return errors.New("a size of a terminal that cannot be read")
		}
		in.offer(func() { keepLatest(in.resizes, &size) })
		return nil
	default:
		return fmt.Errorf("a frame of type %d within a call", typ)
	}
}

func (in *inputs) takeData(data []byte) error {
	switch {
	case !in.rules.data:
		return errors.New("data in a call that takes none")
	case in.hasEnded():
		return errors.New("data after its end")
	}
	select {
	case in.data <- bytes.Clone(data):
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

func (in *inputs) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
}

func (in *inputs) hasEnded() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ended
}

// fail ends the call because its caller broke the protocol.
func (in *inputs) fail(err error) {
	in.mu.Lock()
	in.wrong = broken(err)
	in.mu.Unlock()
	in.cancel(broken(err))
}

// violation returns what the caller did wrong, if it did.
func (in *inputs) violation() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.wrong
}

// Read implements io.Reader on the data: io.EOF after the caller's end, the call's cause when the call ends first.
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
	switch {
	case in.hasEnded():
		return io.EOF
	case in.ctx.Err() != nil:
		return context.Cause(in.ctx)
	default:
		return io.ErrUnexpectedEOF
	}
}

// close ends the signals and sizes when the handler has returned.
func (in *inputs) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	close(in.signals)
	close(in.resizes)
}
