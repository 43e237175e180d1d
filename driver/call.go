package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Signal numbers of the contract, the same on every operating system.
const (
	signalTerminate = 15
	signalKill      = 9
)

const (
	// parentInterval is how often the driver looks whether its runner still lives.
	parentInterval = time.Second
	// retryPatience bounds the tries to make a call that an executor did not begin: it is about to end.
	retryPatience = 30 * time.Second
)

// call makes one call and returns the status of what it ran. A call that was not begun is made again; so is a clean-up,
// which may be repeated, when its connection breaks. Every other call ends with its connection.
func (d *Driver) call(ctx context.Context, op api.Op, message any, data []byte) (status int, err error) {
	deadline := time.Now().Add(retryPatience)
	for {
		status, err = d.callOnce(ctx, op, message, data)
		again := errors.Is(err, api.ErrNotBegun) || op == api.OpCleanup && errors.Is(err, api.ErrLost)
		if !again || time.Now().After(deadline) {
			return status, err
		}
		select {
		case <-time.After(dialInterval):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (d *Driver) callOnce(ctx context.Context, op api.Op, message any, data []byte) (int, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := failpoint.Hit("driver/" + string(op) + "-connected"); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &output{broken: make(chan struct{})}
	signals := make(chan int, 1)
	go d.steer(ctx, signals, out.broken, cancel)
	status, err := conn.Call(ctx, op, message, api.Streams{
		Stdin: bytes.NewReader(data), Stdout: out.to(d.Stdout), Stderr: out.to(d.Stderr), Signals: signals,
		Sent: func() {
			if err := failpoint.Hit("driver/" + string(op) + "-sent"); err != nil {
				cancel(err)
			}
		},
	})
	switch {
	case err != nil:
		return 0, d.explain(err)
	case out.err != nil:
		return 0, fault.Systemf("writing the job's output: %w", out.err)
	}
	return status, failpoint.Hit("driver/" + string(op) + "-result")
}

// steer passes the runner's signals on, and ends the call when its runner is gone. Once nobody reads the output, the
// stage is ended.
func (d *Driver) steer(ctx context.Context, signals chan<- int, broken <-chan struct{}, end context.CancelCauseFunc) {
	number := signalTerminate
	watch := time.NewTicker(parentInterval)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch.C:
			if d.Parent > 0 && parentGone(d.Parent) {
				end(fault.Systemf("the runner that called this driver (process %d) is gone", d.Parent))
				return
			}
			continue
		case <-broken:
			broken, number = nil, signalKill
		case <-d.Signals:
		}
		select {
		case signals <- number:
		case <-ctx.Done():
			return
		}
		number = signalKill
	}
}

// output is where a call's output goes. Once a write failed, nobody reads any more: the rest is discarded and broken is
// closed.
type output struct {
	broken chan struct{}
	err    error
}

func (o *output) to(w io.Writer) io.Writer { return outputStream{o, w} }

type outputStream struct {
	*output
	w io.Writer
}

func (s outputStream) Write(p []byte) (int, error) {
	if s.err == nil {
		if _, s.output.err = s.w.Write(p); s.output.err != nil {
			close(s.broken)
		}
	}
	return len(p), nil
}

// explain says what to do about a connection that broke in the middle of a call.
func (d *Driver) explain(err error) error {
	if !errors.Is(err, api.ErrLost) {
		return err
	}
	return fault.WithRemedy(fault.Systemf("the executor ended while the call ran, and its sandboxes with it: %w", err),
		fmt.Sprintf("retry the job; %s has more", serviceLog))
}
