package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
)

const (
	sigkill   = 9  // syscall has no SIGKILL that means this on every OS
	maxSignal = 64 // Linux's SIGRTMAX
	// closeGrace is how long what was received before the connection ended may take to reach its consumer.
	closeGrace = time.Second
)

// Start starts a process. It fails with class author when the job is at fault: no such command, user or shell, or
// nothing left to start a process with; with class admin when a command or a shell is missing from the helper root.
func (c *Client) Start(ctx context.Context, spec isolation.ProcessSpec) (isolation.Process, error) {
	start, err := merge(c.nextID.Add(1), spec, c.setup)
	if err != nil {
		return nil, err
	}
	stream, _, err := c.exchange(ctx, startTimeout, request{Op: opStart, Start: start}, spec.Script)
	if err != nil {
		return nil, err
	}
	p := &process{client: c, stream: stream, id: start.ID, done: make(chan struct{})}
	p.clock = newKillClock(exitTimeout, func() {
		c.fail(fmt.Errorf("the agent did not report the end of a killed process within %s", exitTimeout))
	})
	go p.receive(newSink(spec.Stdout), newSink(spec.Stderr))
	go p.watch()
	if start.Stdin {
		go p.sendStdin(spec.Stdin)
	}
	return p, nil
}

// process is the executor's view of a process in the sandbox.
type process struct {
	client *Client
	stream io.ReadWriteCloser
	id     uint64
	clock  *killClock

	once sync.Once
	done chan struct{}
	exit isolation.Exit
	err  error
}

// Wait implements isolation.Process. When the connection ends while a consumer of the output blocks, Wait does not
// wait for the consumer: then, and only then, one Write may still be in progress when it returns. Stdin is
// never waited for: a Read in progress ends when its reader does.
func (p *process) Wait() (isolation.Exit, error) {
	<-p.done
	return p.exit, p.err
}

// Signal implements isolation.Process. It returns when the agent has sent the signal; for signal 9, when everything
// it had to kill is dead. A process that ended already needs no signal: that is no error.
func (p *process) Signal(ctx context.Context, signal int) error {
	if signal < 1 || signal > maxSignal {
		return fmt.Errorf("signal %d does not exist: Linux has 1 to %d", signal, maxSignal)
	}
	if signal == sigkill {
		p.clock.start()
	}
	return p.request(ctx, request{Op: opSignal, Signal: &signalRequest{ID: p.id, Signal: signal}})
}

// Resize implements isolation.Process.
func (p *process) Resize(ctx context.Context, rows, columns uint16) error {
	return p.request(ctx, request{Op: opResize, Resize: &resizeRequest{ID: p.id, Rows: rows, Columns: columns}})
}

func (p *process) request(ctx context.Context, req request) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if _, err := p.client.call(ctx, signalTimeout, req); err != nil {
		return fmt.Errorf("sending a %s request: %w", req.Op, err)
	}
	return nil
}

// receive delivers the output until the exit frame.
func (p *process) receive(stdout, stderr *sink) {
	exit, err := p.deliver(stdout, stderr)
	if err != nil {
		err = p.client.explain(err)
	}
	p.finish(exit, err)
	p.stream.Close()
}

func (p *process) deliver(stdout, stderr *sink) (isolation.Exit, error) {
	buf := make([]byte, frame.MaxPayload)
	for {
		typ, payload, err := frame.Read(p.stream, buf)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: no exit frame", frame.ErrProtocol)
		}
		if err != nil {
			return isolation.Exit{}, fmt.Errorf("reading the output of a process: %w", err)
		}
		switch typ {
		case frameStdout, frameStderr:
			if len(payload) == 0 {
				return isolation.Exit{}, fmt.Errorf("%w: output of no bytes", frame.ErrProtocol)
			}
			p.clock.pause()
			if typ == frameStdout {
				stdout.write(payload)
			} else {
				stderr.write(payload)
			}
			p.clock.resume()
		case frameExit:
			return parseExit(payload)
		case frameReply:
			_, err := parseReply(payload)
			if err == nil {
				err = fmt.Errorf("%w: a second reply without an error", frame.ErrProtocol)
			}
			return isolation.Exit{}, err
		default:
			return isolation.Exit{}, fmt.Errorf("%w: a frame of type %d from a process", frame.ErrProtocol, typ)
		}
	}
}

// exitLength is that of an exit frame's payload: status, signal, and 1 if memory ran out meanwhile.
const exitLength = 3

// parseExit reads an exit frame.
func parseExit(payload []byte) (isolation.Exit, error) {
	if len(payload) != exitLength || payload[1] > maxSignal || payload[2] > 1 {
		return isolation.Exit{}, fmt.Errorf("%w: exit frame % x", frame.ErrProtocol, payload[:min(len(payload), 8)])
	}
	exit := isolation.Exit{Code: int(payload[0]), Signal: int(payload[1]), OOM: payload[2] == 1}
	if exit.Signal != 0 {
		exit.Code = 128 + exit.Signal
	}
	return exit, nil
}

// watch ends Wait when the connection ends while the consumer of the output blocks.
func (p *process) watch() {
	select {
	case <-p.done:
		return
	case <-p.client.Done():
	}
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.finish(isolation.Exit{}, p.client.explain(io.ErrUnexpectedEOF))
	}
}

func (p *process) finish(exit isolation.Exit, err error) {
	p.once.Do(func() {
		p.clock.stop()
		p.exit, p.err = exit, err
		close(p.done)
	})
}

// sendStdin copies until the reader ends, the process ends or the agent stops taking it.
func (p *process) sendStdin(stdin io.Reader) {
	buf := make([]byte, frame.HeaderLength+frame.MaxPayload/2)
	for {
		n, err := stdin.Read(buf[frame.HeaderLength:])
		if n > 0 {
			if _, err := p.stream.Write(frame.Put(buf, frameStdin, n)); err != nil {
				return
			}
		}
		if err != nil {
			_ = frame.Write(p.stream, frameStdinEnd, nil) // a stream that has ended needs no end of stdin
			return
		}
	}
}

// sink is a consumer of output that is left alone after its first error.
type sink struct {
	w io.Writer
}

func newSink(w io.Writer) *sink {
	if w == nil {
		w = io.Discard
	}
	return &sink{w: w}
}

func (s *sink) write(payload []byte) {
	if n, err := s.w.Write(payload); err != nil || n < len(payload) {
		s.w = io.Discard
	}
}
