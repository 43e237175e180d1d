package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// dialInterval is the pause between two tries.
	dialInterval = 50 * time.Millisecond
	// answerPatience bounds the wait for the first answer: the executor may be starting, and callers wait in its
	// socket's queue.
	answerPatience = 30 * time.Second
	// outageAnswerPatience is the same for a job that has waited in vain already.
	outageAnswerPatience = 2 * time.Second
)

// errSignalled is the cause of a call that was given up because the runner ended it before it began.
var errSignalled = errors.New("the runner ended the call before the Airlock service took it")

// connect reaches the executor and makes sure that both speak the same protocol.
func (d *Driver) connect(ctx context.Context) (*api.Client, error) {
	ctx, stop := d.untilSignalled(ctx)
	conn, err := d.reachOnce(ctx)
	if stop() { // then conn's own error, if any, is but a consequence
		if err == nil {
			conn.Close()
		}
		return nil, fault.Systemf("%w", errSignalled)
	}
	return conn, err
}

// reachOnce is reach, with the patience of a job that has not waited in this outage, or of one that has.
func (d *Driver) reachOnce(ctx context.Context) (*api.Client, error) {
	outage := d.outage()
	dial, answer := dialPatience, answerPatience
	if outage.waited() {
		dial, answer = 0, outageAnswerPatience
	}
	conn, err := d.reach(ctx, dial, answer)
	switch {
	case err == nil:
		outage.over()
		return conn, nil
	case ctx.Err() != nil || fault.ClassOf(err) != fault.System:
		return nil, err
	}
	outage.note()
	if outage.waited() {
		return nil, fault.Systemf("there is still no answer from the Airlock service")
	}
	return nil, err
}

// untilSignalled returns a context that ends with the first signal, and a function that stops watching and
// reports whether one came.
func (d *Driver) untilSignalled(ctx context.Context) (context.Context, func() bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	signalled := false
	go func() {
		defer close(watched)
		select {
		case <-d.Signals:
			signalled = true
			cancel(errSignalled)
		case <-ctx.Done():
		}
	}()
	return ctx, func() bool {
		cancel(nil)
		<-watched
		return signalled
	}
}

// reach dials until the executor answers or patience ends. One that is ending may also accept a connection and
// drop it before its first answer. answer bounds the wait for that answer.
func (d *Driver) reach(ctx context.Context, patience, answer time.Duration) (*api.Client, error) {
	deadline := time.Now().Add(patience)
	for {
		conn, err := d.open(ctx, answer)
		if err == nil {
			return conn, nil
		}
		if !restarting(err) || time.Now().After(deadline) {
			return nil, d.unreachable(err)
		}
		select {
		case <-time.After(dialInterval):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (d *Driver) open(ctx context.Context, answer time.Duration) (*api.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answer, fmt.Errorf("no answer within %s", answer))
	defer cancel()
	conn, err := api.Dial(ctx, d.Socket)
	var other *api.VersionError
	if errors.As(err, &other) {
		return nil, fault.WithRemedy(fault.Adminf("the Airlock service at %s speaks protocol %d, this driver speaks %d",
			d.Socket, other.Theirs, api.ProtocolVersion),
			"install airlock and airlock-driver of one release and restart the service")
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return conn, err
}

// restarting reports whether an error may pass within a moment: nobody listens, the queue of those who wait is full, or
// the executor that took the connection is ending.
func restarting(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN) ||
		errors.Is(err, api.ErrLost) || errors.Is(err, api.ErrNotBegun)
}

// unreachable explains why nobody answers.
func (d *Driver) unreachable(err error) error {
	var classified *fault.Error
	switch {
	case errors.As(err, &classified) && !errors.Is(err, api.ErrLost):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fault.WithRemedy(fault.Systemf("the runner's %s may not use %s", runnersUser(), d.Socket), joinGroup)
	default:
		return fault.WithRemedy(fault.Systemf("the Airlock service does not answer at %s: %w", d.Socket, err), startService)
	}
}
