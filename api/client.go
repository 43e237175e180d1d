package api

import (
	"bytes"
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

// Client is one connection to an executor. Its methods may be called concurrently.
type Client struct {
	session *yamux.Session
	version Version
	calls   chan struct{} // a place for each call in progress
}

// openTimeout bounds the executor's taking note of a new stream and of a closed one.
const openTimeout = 5 * time.Minute

// VersionError says that an executor speaks another protocol.
type VersionError struct{ Theirs uint32 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the executor speaks protocol %d, this program speaks %d", e.Theirs, ProtocolVersion)
}

// NewClient greets the executor at the other end of conn, which it owns from here on. It fails with ErrLost when the
// connection ends before the answer, with a *VersionError when the executor speaks another protocol, with ctx's cause,
// or with the executor's refusal; conn is closed then.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	session, err := yamux.Client(conn, settings())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connecting to the executor: %w", err)
	}
	c := &Client{session: session, calls: make(chan struct{}, maxCalls)}
	if c.version, err = Ask(ctx, c, Question[hello, Version]{opHello}, hello{Protocol: ProtocolVersion}); err == nil &&
		c.version.Protocol != ProtocolVersion {
		err = &VersionError{c.version.Protocol}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Dial connects to the executor's socket, a path, on Windows the name of a pipe, and greets it. The error is the
// system's for the connection, or NewClient's.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return NewClient(ctx, conn)
}

// Version returns what the executor said of itself when the connection was made.
func (c *Client) Version() Version { return c.version }

// Close ends the connection; the executor then ends what this client has running.
func (c *Client) Close() { _ = c.session.Close() }

// Ask asks a question and returns its answer.
func Ask[Q, A any](ctx context.Context, c *Client, question Question[Q, A], body Q) (answer A, err error) {
	out := &answerBuffer{}
	if _, err := c.Call(ctx, question.Op, body, Streams{Stdout: out, Stderr: io.Discard}); err != nil {
		return answer, err
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return answer, fault.Systemf("reading the answer to %s: %w", question.Op, err)
	}
	return answer, nil
}

// answerBuffer holds an answer, of a size that is bearable.
type answerBuffer struct{ bytes.Buffer }

func (b *answerBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxAnswer {
		return 0, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	return b.Buffer.Write(p)
}

// Call makes one call and returns the status of what it ran, 0 to 255. It sends all of Stdin, signals and sizes as they
// come, and writes output until the result is there. A failure of the call comes as a classified error, an end of the
// connection as ErrLost, an input or output that breaks as its own error: the call is ended then. When ctx ends, the
// executor ends the call, and the error is ctx's cause. A Read of Stdin that is pending at the end is left behind;
// nobody can interrupt it. Of many calls at once, some wait.
func (c *Client) Call(ctx context.Context, op Op, body any, streams Streams) (status int, err error) {
	open, err := encodeRequest(op, body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := c.open(ctx)
	if err != nil {
		return 0, c.explain(ctx, err)
	}
	go func() {
		if _, err := stream.Write(open); err != nil {
			return
		}
		go sendControl(ctx, stream, streams)
		sendInput(stream, streams, cancel)
	}()
	end, err := receive(stream, streams)
	switch {
	case ctx.Err() != nil: // the executor's result, if any, is a consequence
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, c.explain(ctx, err)
	case end.Failure != nil:
		return 0, end.Failure.err()
	}
	return end.Status, nil
}

// open opens a stream that ends with ctx. Its end tells the executor; nobody waits until an executor that reads nothing
// has taken note of it.
func (c *Client) open(ctx context.Context) (*yamux.Stream, error) {
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	stream, err := c.session.OpenStream()
	if err != nil {
		<-c.calls
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		_ = stream.SetDeadline(time.Unix(1, 0)) // it ends every read and write
		_ = stream.Close()
		<-c.calls
	})
	return stream, nil
}

func encodeRequest(op Op, body any) ([]byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding a call: %w", err)
	}
	payload, err := json.Marshal(request{Op: op, Body: encoded})
	if err != nil {
		return nil, fmt.Errorf("encoding a call: %w", err)
	}
	if len(payload) > MaxRequest {
		return nil, fault.Authorf("the call %s has %d bytes, more than the %d that are allowed", op, len(payload), MaxRequest)
	}
	buf := append(make([]byte, frame.HeaderLength), payload...)
	return frame.Put(buf, frameRequest, len(payload)), nil
}

// brokenOutput is an error of the caller's own writer.
type brokenOutput struct{ error }

func (e brokenOutput) Unwrap() error { return e.error }

// receive writes output until the result comes.
func receive(stream io.Reader, streams Streams) (result, error) {
	buf := make([]byte, MaxChunk)
	for {
		typ, payload, err := frame.Read(stream, buf)
		if err != nil {
			return result{}, err
		}
		to := streams.Stdout
		switch typ {
		case frameStdout:
		case frameStderr:
			to = streams.Stderr
		case frameResult:
			var end result
			if err := json.Unmarshal(payload, &end); err != nil {
				return result{}, fmt.Errorf("%w: a result that cannot be read: %w", frame.ErrProtocol, err)
			}
			return end, nil
		default:
			return result{}, fmt.Errorf("%w: a frame of type %d from an executor", frame.ErrProtocol, typ)
		}
		if _, err := to.Write(payload); err != nil {
			return result{}, brokenOutput{err}
		}
	}
}

// explain says what an error of a stream means.
func (c *Client) explain(ctx context.Context, err error) error {
	var output brokenOutput
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &output):
		return fault.Systemf("writing the output: %w", output.error)
	case errors.Is(err, frame.ErrProtocol):
		return fault.Systemf("%w", err)
	default:
		return lost(err)
	}
}

func lost(err error) error {
	return &fault.Error{Class: fault.System, Err: fmt.Errorf("%w: %w", ErrLost, err)}
}

// sendInput sends all of the input, then its end. An input that fails fails the call: half of one must not pass for a
// whole one. When the executor no longer takes input, the call's result tells why.
func sendInput(stream io.Writer, streams Streams, fail context.CancelCauseFunc) {
	buf := make([]byte, frame.HeaderLength+MaxChunk)
	for streams.Stdin != nil {
		n, err := streams.Stdin.Read(buf[frame.HeaderLength:])
		if n > 0 {
			if _, err := stream.Write(frame.Put(buf, frameData, n)); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fail(fmt.Errorf("reading the input: %w", err))
			return
		}
	}
	if frame.Write(stream, frameEnd, nil) == nil && streams.Sent != nil {
		streams.Sent()
	}
}

// sendControl forwards signals and terminal sizes as they happen, until ctx ends.
func sendControl(ctx context.Context, stream io.Writer, streams Streams) {
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case signal, ok := <-streams.Signals:
			if !ok {
				streams.Signals = nil
				continue
			}
			err = frame.WriteJSON(stream, frameSignal, signal)
		case size, ok := <-streams.Resizes:
			if !ok {
				streams.Resizes = nil
				continue
			}
			err = frame.WriteJSON(stream, frameResize, size)
		}
		if err != nil {
			return
		}
	}
}
