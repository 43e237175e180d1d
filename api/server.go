package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
)

// Call is what a caller asks an executor for.
type Call struct {
	Op   Op
	body json.RawMessage
	Streams
}

// Decode reads the body of the call into v, the message of the call's name.
func (c *Call) Decode(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return fault.Systemf("reading the call %s: %w", c.Op, err)
	}
	return nil
}

// Answer writes the answer to a question.
func Answer[Q, A any](call *Call, _ Question[Q, A], answer A) error {
	encoder := json.NewEncoder(call.Stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(answer)
}

// Handler does what a caller asks for and returns the status of what it ran, 0 to 255. Its error is classified: see
// Author and Administrator. ctx ends with the cause ErrCallerGone when the caller goes. It must not panic.
type Handler func(ctx context.Context, call *Call) (status int, err error)

// What one connection may do, and how long it may take over it. Drivers make one call at a time.
const (
	// maxCalls are the calls of one connection at once; a Client lets more of them wait. A call lasts until its caller has
	// ended the stream, which holds memory until then, and until its handler has returned.
	maxCalls = 4
	// patience bounds the wait for a whole request, and for the greeting of a new connection.
	patience = 30 * time.Second
	// inputChunks is how many chunks of data wait for a handler that does not read its input; after that the caller is
	// held back, and a signal that it sends behind them waits too.
	inputChunks = 2
	// signalsKept is how many signals wait for a handler that does not look; the oldest go first.
	signalsKept = 16
)

// ServeConn serves one connection until it ends; then every handler's context has ended, and all have returned. greet is
// asked at the connection's first call, and refuses the caller by an error. Nothing that a caller sends can do more than
// end its own connection.
func ServeConn(conn net.Conn, greet func() (Version, error), handle Handler) {
	guard := frame.NewGuard(conn, maxCalls)
	session, err := yamux.Server(guard, settings())
	if err != nil {
		_ = conn.Close()
		return
	}
	defer func() { _ = session.Close() }()
	c := &connection{session: session, guard: guard, handle: handle, calls: make(chan struct{}, maxCalls)}
	if !c.greet(greet) {
		return
	}
	for {
		c.calls <- struct{}{} // before the stream is accepted: what waits holds a window and nothing else
		stream, err := session.AcceptStream()
		if err != nil {
			break
		}
		go func() {
			defer func() { <-c.calls }()
			c.serve(stream)
		}()
	}
	for range maxCalls - 1 { // one place is the accepting loop's own
		c.calls <- struct{}{}
	}
}

// settings are yamux's, of both ends.
func settings() *yamux.Config {
	config := frame.Config(frame.Patient, openTimeout)
	config.AcceptBacklog = maxCalls
	return config
}

// connection serves one caller.
type connection struct {
	session *yamux.Session
	guard   *frame.Guard
	handle  Handler
	calls   chan struct{} // a place for each call in progress
}

// greet answers the first call of the connection; false when there will be no other.
func (c *connection) greet(version func() (Version, error)) bool {
	late := time.AfterFunc(patience, func() { _ = c.session.Close() })
	defer late.Stop()
	stream, err := c.session.AcceptStream()
	if err != nil {
		return false
	}
	defer func() { _ = stream.Close() }()
	open, err := readRequest(stream)
	if err != nil {
		return false
	}
	out := newOutput(stream)
	if open.Op != opHello {
		out.end(result{Failure: newFailure(fault.Systemf("the first call of a connection is %s, not %s", opHello, open.Op))})
		c.linger(stream)
		return false
	}
	own, err := version()
	if err == nil {
		err = Answer(&Call{Streams: Streams{Stdout: out.stream(frameStdout)}}, Question[hello, Version]{}, own)
	}
	if err != nil {
		out.end(result{Failure: newFailure(err)})
		c.linger(stream)
		return false
	}
	out.end(result{})
	return true
}

// linger waits, a while, until the caller has read a refusal and goes.
func (c *connection) linger(stream *yamux.Stream) {
	_ = stream.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, stream)
}

func readRequest(stream *yamux.Stream) (request, error) {
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = stream.SetReadDeadline(time.Time{}) }()
	return parseRequest(stream)
}

func parseRequest(r io.Reader) (request, error) {
	typ, payload, err := frame.ReadLong(r, MaxRequest)
	if err != nil {
		return request{}, err
	}
	if typ != frameRequest {
		return request{}, fmt.Errorf("%w: a frame of type %d opens no call", frame.ErrProtocol, typ)
	}
	var open request
	if err := json.Unmarshal(payload, &open); err != nil {
		return request{}, fmt.Errorf("%w: a request that cannot be read: %w", frame.ErrProtocol, err)
	}
	return open, nil
}

// serve serves one call: its request, the caller's input and signals, the handler's output, and exactly one result.
func (c *connection) serve(stream *yamux.Stream) {
	out := newOutput(stream)
	if open, err := readRequest(stream); err != nil {
		out.end(result{Failure: newFailure(broken(err))})
	} else {
		c.answer(stream, open, out)
	}
	_ = stream.Close()
	_, _ = io.Copy(io.Discard, stream) // until the caller has ended the stream, too
}

func (c *connection) answer(stream *yamux.Stream, open request, out *output) {
	ctx, cancel := context.WithCancelCause(context.Background())
	answered := make(chan struct{})
	go c.watch(stream, answered, cancel)
	in := newInputs(ctx, rulesOf(open.Op), cancel)
	received := make(chan struct{})
	go func() { defer close(received); in.receive(stream) }()
	status, err := c.handle(ctx, &Call{Op: open.Op, body: open.Body, Streams: Streams{
		Stdin: in, Stdout: out.stream(frameStdout), Stderr: out.stream(frameStderr), Signals: in.signals, Resizes: in.resizes,
	}})
	in.close()
	if cause := in.violation(); cause != nil {
		err = cause // what the handler made of the cancelled context tells nobody anything
	}
	end := result{Status: status}
	if err != nil {
		end = result{Failure: newFailure(err)}
	}
	out.end(end)
	close(answered)
	cancel(nil)
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	<-received
	_ = stream.SetReadDeadline(time.Time{})
}

// watch ends a call whose caller goes, though it may read no input, and sits in a write that nobody takes.
func (c *connection) watch(stream *yamux.Stream, answered <-chan struct{}, cancel context.CancelCauseFunc) {
	select {
	case <-c.guard.Ended(stream.StreamID()):
	case <-c.session.CloseChan():
	case <-answered:
		return
	}
	cancel(ErrCallerGone)
	_ = stream.SetWriteDeadline(time.Unix(1, 0))
}

// broken says that a caller broke the protocol.
func broken(err error) error {
	return fault.WithRemedy(fault.Systemf("the caller broke the protocol: %w", err),
		"the driver and the service must be of one release")
}

var errEnded = errors.New("the call has ended")
