package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
)

// How long the executor waits for an agent that does not answer, at most. A caller's context may be shorter.
// They are generous because a sandbox may be slow; only a broken or hostile agent ever meets them.
const (
	helloTimeout  = 30 * time.Second
	startTimeout  = 60 * time.Second // also bounds the transfer of a script
	signalTimeout = 45 * time.Second // the agent itself gives up killing after killTimeout
	writeTimeout  = 30 * time.Second // for the connection to take a frame
	// exitTimeout is how long after a kill the agent may take to report the end, not counting the time that
	// the consumer of the output takes.
	exitTimeout = 60 * time.Second
)

// Setup is what an agent must know before the first process.
type Setup struct {
	// Image is the configuration of the image's root.
	Image isolation.ImageConfig
	// Helper is that of the helper root at isolation.HelperPath; nil when there is none.
	Helper *isolation.ImageConfig
	// Scripts says that scripts will be run: a root without a shell is refused.
	Scripts bool
}

// SetupOf is what the agent of a sandbox must know.
func SetupOf(spec isolation.Spec) Setup {
	setup := Setup{Image: spec.Image.Config, Scripts: spec.Scripts}
	if spec.Helper != nil {
		setup.Helper = &spec.Helper.Config
	}
	return setup
}

// Client is the executor's end of the connection to one agent. Its methods may be called concurrently.
type Client struct {
	session *yamux.Session
	setup   Setup
	nextID  atomic.Uint64

	mu    sync.Mutex
	cause error // why the connection ended, once that is known
}

// Connect greets the agent at the other end of conn and lets it prepare the sandbox: the directories for builds,
// cache, scripts and the helper stages' home, owned by the image's USER. It returns when processes can be started.
// It waits for an agent that is still starting, at most 30 seconds. The client owns conn from here on; when Connect
// fails, conn is closed.
func Connect(ctx context.Context, conn io.ReadWriteCloser, setup Setup) (*Client, error) {
	session, err := yamux.Client(frame.NewGuard(conn, 0), frame.Config(writeTimeout, startTimeout))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	c := &Client{session: session, setup: setup}
	if err := c.greet(ctx); err != nil {
		c.fail(err)
		return nil, fmt.Errorf("greeting the agent: %w", err)
	}
	sent := &setupRequest{User: setup.Image.User, Scripts: setup.Scripts, Path: pathOf(setup.Image.Env)}
	if setup.Helper != nil {
		sent.Helper, sent.HelperPath = true, pathOf(setup.Helper.Env)
	}
	if _, err := c.call(ctx, startTimeout, request{Op: opSetup, Setup: sent}); err != nil {
		c.fail(err)
		return nil, fmt.Errorf("setting up the sandbox: %w", err)
	}
	return c, nil
}

// greet checks that the other end is an agent of the same version.
func (c *Client) greet(ctx context.Context) error {
	sent := greeting{Version: Version, Nonce: rand.Text()}
	got, err := c.call(ctx, helloTimeout, request{Op: opHello, Hello: &sent})
	switch {
	case err != nil:
		return err
	case got.Hello == nil || got.Hello.Nonce != sent.Nonce:
		return fmt.Errorf("%w: the agent did not return the nonce", frame.ErrProtocol)
	case got.Hello.Version != Version:
		return fault.WithRemedy(
			fault.Adminf("the agent speaks protocol version %d, the executor %d", got.Hello.Version, Version),
			"install airlock-agent and airlock-executor of the same release")
	}
	return nil
}

// Ping measures the time to the agent and back.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	type result struct {
		rtt time.Duration
		err error
	}
	ch := make(chan result, 1)
	go func() { // bounded by writeTimeout: yamux knows no context
		rtt, err := c.session.Ping()
		ch <- result{rtt, err}
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			return 0, fmt.Errorf("pinging the agent: %w", c.explain(r.err))
		}
		return r.rtt, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("pinging the agent: %w", context.Cause(ctx))
	}
}

// Usage is what a guest's agent says of its machine. Nothing of it can be checked.
type Usage struct {
	// PIDs are processes and threads, the agent's included.
	PIDs int64 `json:"pids"`
	// OOMKills is how many processes were killed because memory ran out.
	OOMKills int64 `json:"oom_kills"`
}

// Usage asks the agent of a guest.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	got, err := c.call(ctx, startTimeout, request{Op: opUsage})
	if err == nil && got.Usage == nil {
		err = fmt.Errorf("%w: no usage", frame.ErrProtocol)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("asking for the guest's usage: %w", c.explain(err))
	}
	return *got.Usage, nil
}

// Done is closed when the connection has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.session.CloseChan() }

// Close ends the connection; the agent then kills everything in the sandbox and exits.
func (c *Client) Close() error {
	c.fail(errors.New("the executor closed the connection"))
	return nil
}

// fail ends the connection. The first cause is kept for all that still wait.
func (c *Client) fail(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.mu.Unlock()
	c.session.Close()
}

// explain says what an error of a stream means: when the connection has ended, that the sandbox is gone.
func (c *Client) explain(err error) error {
	if errors.Is(err, frame.ErrProtocol) {
		c.fail(err)
	}
	if !c.session.IsClosed() {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		return fmt.Errorf("%w: the connection to its agent ended", isolation.ErrSandboxGone)
	}
	return fmt.Errorf("%w: %w", isolation.ErrSandboxGone, c.cause)
}

// call makes one exchange of a request and a reply.
func (c *Client) call(ctx context.Context, timeout time.Duration, req request) (reply, error) {
	stream, got, err := c.exchange(ctx, timeout, req, nil)
	if err != nil {
		return reply{}, err
	}
	stream.Close()
	return got, nil
}

// exchange opens a stream, sends a request with its script and reads the reply. A caller whose context ends gets
// its error at once; an agent that does not answer at all costs the connection.
func (c *Client) exchange(ctx context.Context, timeout time.Duration, req request, script []byte) (*yamux.Stream, reply, error) {
	type result struct {
		stream *yamux.Stream
		reply  reply
		err    error
	}
	ch := make(chan result, 1)
	go func() {
		stream, got, err := c.converse(ctx, req, script)
		ch <- result{stream, got, err}
	}()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case r := <-ch:
		if r.err != nil && ctx.Err() != nil {
			return nil, reply{}, context.Cause(ctx)
		}
		return r.stream, r.reply, r.err
	case <-timer.C:
		err := fmt.Errorf("the agent did not answer a %s request within %s", req.Op, timeout)
		c.fail(err)
		return nil, reply{}, c.explain(err)
	case <-ctx.Done():
		go func() { // closing the stream kills what it may have started
			if r := <-ch; r.stream != nil {
				r.stream.Close()
			}
		}()
		return nil, reply{}, context.Cause(ctx)
	}
}

// converse is exchange, step by step.
func (c *Client) converse(ctx context.Context, req request, script []byte) (*yamux.Stream, reply, error) {
	stream, err := c.session.OpenStream()
	if err != nil {
		return nil, reply{}, c.explain(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	got, err := ask(stream, req, script)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the answer came too late: the stream has a deadline in the past
	}
	if err != nil {
		stream.Close()
		return nil, reply{}, c.explain(err)
	}
	return stream, got, nil
}

func ask(stream io.ReadWriter, req request, script []byte) (reply, error) {
	if err := sendRequest(stream, req, script); err != nil {
		return reply{}, err
	}
	return readReply(stream)
}

func sendRequest(w io.Writer, req request, script []byte) error {
	payload, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding a request: %w", err)
	}
	if len(payload) > maxRequest {
		return fault.Authorf("arguments and environment have %d bytes, more than the %d that are allowed", len(payload), maxRequest)
	}
	if err := frame.Write(w, frameRequest, payload); err != nil {
		return err
	}
	for len(script) > 0 {
		n := min(len(script), frame.MaxPayload)
		if err := frame.Write(w, frameScript, script[:n]); err != nil {
			return err
		}
		script = script[n:]
	}
	return nil
}

// readReply reads a reply; an error in it is returned as an error.
func readReply(r io.Reader) (reply, error) {
	typ, payload, err := frame.Read(r, make([]byte, frame.MaxPayload))
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: no reply", frame.ErrProtocol)
	}
	if err != nil {
		return reply{}, err
	}
	if typ != frameReply {
		return reply{}, fmt.Errorf("%w: a frame of type %d instead of a reply", frame.ErrProtocol, typ)
	}
	return parseReply(payload)
}

func parseReply(payload []byte) (reply, error) {
	var got reply
	if err := json.Unmarshal(payload, &got); err != nil {
		return reply{}, fmt.Errorf("%w: a reply that cannot be read: %w", frame.ErrProtocol, err)
	}
	if got.Error == nil {
		return got, nil
	}
	failure := &fault.Error{Class: fault.System, Err: errors.New(plain(got.Error.Message)), Remedy: plain(got.Error.Remedy)}
	switch {
	case got.Error.Author:
		failure.Class = fault.Author
	case got.Error.Helper:
		failure.Class = fault.Admin
	}
	return reply{}, failure
}

// plain makes a text of the agent fit for logs: one line, no control characters, at most 1,000 bytes.
func plain(text string) string {
	const most = 1000
	if len(text) > most {
		text = text[:most]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, " "))
}
