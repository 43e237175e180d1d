package host

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/failpoint"
	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
)

// Causes with which a call's context ends, beside errStopping.
var (
	errDriverGone = errors.New("the driver has gone")
	errCallOver   = errors.New("the call is over")
)

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// Call passes a call on to the executor, frame by frame in both directions, and makes sure that a caller that
// is still there gets exactly one result, whatever becomes of the executor or of this host. When the caller
// goes, the executor's side is cancelled at once.
func (c *connection) Call(ctx context.Context, caller hostpb.Host_CallServer) error {
	if !c.door.beginCall(c) {
		return status.Error(codes.Unavailable, errStopping.Error())
	}
	if !c.calling.CompareAndSwap(false, true) {
		return status.Error(codes.ResourceExhausted, "a connection carries one call at a time")
	}
	defer c.calling.Store(false)

	started := time.Now()
	ctx, cancel := c.callContext(ctx)
	defer cancel(errCallOver)
	box := receive(caller.Recv, c.conn, cancel)
	defer box.close()

	open, err := box.next(ctx)
	if err != nil {
		return nil // it went without a word
	}
	verb, needed, err := verbOf(open)
	var result *api.Result
	if err == nil {
		err = c.peer.require(needed, "the call "+verb)
	}
	if err != nil {
		result = wire.FailureResult(wire.FromStatus(err))
	} else {
		result = c.relay(ctx, cancel, verb, open, box, caller)
	}
	c.door.metrics.observe(verb, resultLabel(ctx, result), time.Since(started))
	_ = failpoint.Hit("host/result-received")
	return caller.Send(&api.ServerFrame{Kind: &api.ServerFrame_Result{Result: result}})
}

// callContext returns the context of one call; its cause tells the caller's end from the host's.
func (c *connection) callContext(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	offCaller := context.AfterFunc(parent, func() { cancel(errDriverGone) })
	offHost := context.AfterFunc(c.door.ctx, func() { cancel(errStopping) })
	return ctx, func(cause error) {
		offCaller()
		offHost()
		cancel(cause)
	}
}

func resultLabel(ctx context.Context, r *api.Result) string {
	if errors.Is(context.Cause(ctx), errDriverGone) {
		return "gone"
	}
	if err := wire.ResultError(r); err != nil {
		return fault.ClassOf(err).String()
	}
	return "ok"
}

// relay finds the executor and carries the call to its result.
func (c *connection) relay(ctx context.Context, cancel context.CancelCauseFunc, verb string, open *api.ClientFrame,
	box *inbox, caller hostpb.Host_CallServer,
) (result *api.Result) {
	defer func() {
		if p := recover(); p != nil {
			c.door.log.Error().Str("verb", verb).Any("panic", p).Str("stack", string(debug.Stack())).
				Msg("a call panicked")
			result = wire.FailureResult(fault.Systemf("the Airlock service made a mistake in this call"))
		}
	}()
	e, release, err := c.door.supervisor.acquire(ctx)
	if err != nil {
		return wire.FailureResult(err)
	}
	defer release()
	stream, err := e.rpc.Call(ctx)
	if err == nil {
		err = stream.Send(open)
	}
	if err != nil && !isEnd(err) { // io.EOF: the stream ended, receiving tells why
		return wire.FailureResult(c.callError(ctx, e, err))
	}
	if err := failpoint.Hit("host/call-forwarded"); err != nil {
		return wire.FailureResult(fault.Systemf("passing the call on: %w", err))
	}
	go sendUp(ctx, cancel, box, stream)
	return c.sendDown(ctx, e, stream, caller)
}

// sendUp passes the caller's frames on until there are no more.
func sendUp(ctx context.Context, cancel context.CancelCauseFunc, box *inbox, stream executorpb.Executor_CallClient) {
	for {
		frame, err := box.next(ctx)
		if isEnd(err) {
			_ = stream.CloseSend()
			return
		}
		if err != nil {
			cancel(errDriverGone)
			return
		}
		if stream.Send(frame) != nil {
			return // receiving tells why
		}
	}
}

// sendDown passes output on and returns the call's result.
func (c *connection) sendDown(ctx context.Context, e *executor, stream executorpb.Executor_CallClient,
	caller hostpb.Host_CallServer,
) *api.Result {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return wire.FailureResult(c.callError(ctx, e, err))
		}
		if result := frame.GetResult(); result != nil {
			return result
		}
		if err := caller.Send(frame); err != nil {
			return wire.FailureResult(fault.Systemf("%w", errDriverGone))
		}
	}
}

// callError says why a call ended without a result of the executor's.
func (c *connection) callError(ctx context.Context, e *executor, err error) error {
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errStopping):
		return fault.WithRemedy(fault.Systemf("%w; what ran was ended", errStopping), "retry the job")
	case ctx.Err() != nil:
		return fault.Systemf("%w", context.Cause(ctx))
	case isEnd(err):
		return fault.Systemf("the executor ended the call without a result")
	case isLost(err):
		c.door.supervisor.suspect(e)
		return lostExecutor(e, err)
	default:
		return wire.FromStatus(err)
	}
}

// isLost tells that a call's connection to the executor broke: under it (Unavailable), or because the host
// had noticed the executor's end first and closed it (Canceled; the caller's own end was looked at before).
func isLost(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.Canceled
}

// lostExecutor says that the executor died or cannot be reached under a call.
func lostExecutor(e *executor, err error) error {
	return fault.WithRemedy(fault.Systemf("the executor (process %d) ended while the call ran, and its sandboxes with "+
		"it: %s", e.record.Process.PID, status.Convert(err).Message()), "retry the job; the service's log has more")
}
