package supervisor

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
	"github.com/airlock-ci/airlock/executor/api/hostpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// Causes with which a call's context ends, beside errStopping.
var (
	errDriverGone = errors.New("the driver has gone")
	errCallOver   = errors.New("the call is over")
)

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// hangUpPatience is how long the executor has to take note that a driver has gone.
const hangUpPatience = time.Second

// Call passes a call on to the executor, frame by frame in both directions, and makes sure that a caller that
// is still there gets exactly one result, whatever becomes of the executor. When the caller goes, the executor's
// side is ended at once. When this host goes, calls whose caller comes back are left to the next host: their
// connection ends without a result.
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
	p := &passage{
		c: c, verb: verb, open: open, box: box, caller: caller, cancel: cancel,
		resumable: isResumable(open), left: comesBack(open) && !c.door.supervisor.opts.StopExecutor,
		observe: func(result *api.Result) {
			c.door.metrics.observe(verb, resultLabel(ctx, result), time.Since(started))
		},
	}
	if err == nil {
		err = c.peer.require(needed, "the call "+verb)
	}
	if err != nil {
		return p.deliver(wire.FailureResult(wire.FromStatus(err)))
	}
	if prepare := open.GetPrepare(); prepare != nil {
		prepare.RunnerUid = c.peer.uid
		if err := c.door.classes.settle(c.entrance, prepare); err != nil {
			return p.deliver(wire.FailureResult(err))
		}
	}
	relayed := ctx
	if open.GetCleanup() != nil {
		// Nobody calls cleanup again: once asked for it is done, though its driver may be killed meanwhile.
		var end context.CancelCauseFunc
		relayed, end = context.WithCancelCause(context.WithoutCancel(ctx))
		defer end(errCallOver)
		defer context.AfterFunc(c.door.ctx, func() { end(errStopping) })()
	}
	result, err := p.relay(relayed)
	if errors.Is(err, errLeft) {
		return c.conn.Close()
	}
	return p.deliver(result)
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

// isResumable reports whether the executor lets the call go on without a connection.
func isResumable(open *api.ClientFrame) bool {
	return open.GetPrepare().GetCallId() != "" || open.GetRun().GetCallId() != "" || open.GetResume() != nil
}

// comesBack reports whether a driver that loses the connection under this call tries again: it resumes, or it has
// the same destroyed once more.
func comesBack(open *api.ClientFrame) bool { return isResumable(open) || open.GetCleanup() != nil }

// errLeft says that a call goes on without this host.
var errLeft = errors.New("the call is left to the next host")

// passage is one call on its way between its caller and the executor.
type passage struct {
	c         *connection
	verb      string
	open      *api.ClientFrame
	box       *inbox
	caller    hostpb.Host_CallServer
	cancel    context.CancelCauseFunc // of the call
	resumable bool                    // the executor is told whether the caller or the host has gone
	left      bool                    // when the host stops, the caller gets no result and comes back
	observe   func(*api.Result)
	delivered bool
}

// deliver sends the result to the caller, once: only the first is.
func (p *passage) deliver(result *api.Result) error {
	if p.delivered {
		return nil
	}
	p.delivered = true
	p.observe(result)
	_ = failpoint.Hit("host/result-received")
	return p.caller.Send(&api.ServerFrame{Kind: &api.ServerFrame_Result{Result: result}})
}

// relay finds the executor and carries the call to its result, which it may have delivered already. Its only
// error is errLeft.
func (p *passage) relay(ctx context.Context) (result *api.Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.c.door.log.Error().Str("verb", p.verb).Any("panic", v).Str("stack", string(debug.Stack())).
				Msg("a call panicked")
			result, err = wire.FailureResult(fault.Systemf("the Airlock service made a mistake in this call")), nil
		}
	}()
	e, release, err := p.c.door.supervisor.acquire(ctx)
	if err != nil {
		return p.failed(err)
	}
	defer release()
	upstream, cut := p.upstream(ctx)
	defer cut(errCallOver)
	stream, err := e.rpc.Call(upstream)
	if err == nil {
		err = stream.Send(p.open)
	}
	if err != nil && !isEnd(err) { // io.EOF: the stream ended, receiving tells why
		return p.failed(p.c.callError(ctx, e, err))
	}
	if err := failpoint.Hit("host/call-forwarded"); err != nil {
		return p.failed(fault.Systemf("passing the call on: %w", err))
	}
	go p.sendUp(ctx, stream)
	return p.sendDown(ctx, e, stream)
}

// upstream returns the context of the executor's side. It ends with the caller's, but for a resumable call whose
// caller has gone only when the executor had time to hear of that.
func (p *passage) upstream(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	upstream, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	off := context.AfterFunc(ctx, func() {
		if p.hangsUp(ctx) {
			select {
			case <-upstream.Done():
			case <-time.After(hangUpPatience):
			}
		}
		cut(context.Cause(ctx))
	})
	return upstream, func(cause error) {
		off()
		cut(cause)
	}
}

// hangsUp tells, once ctx has ended, whether the executor must hear that nobody comes back for the call.
func (p *passage) hangsUp(ctx context.Context) bool {
	handedOver := p.left && errors.Is(context.Cause(ctx), errStopping)
	return p.resumable && !handedOver
}

// failed is the result of a call that this host could not carry to its end.
func (p *passage) failed(err error) (*api.Result, error) {
	if p.left && errors.Is(err, errStopping) {
		return nil, errLeft
	}
	return wire.FailureResult(err), nil
}

// sendUp passes the caller's frames on until there are no more.
func (p *passage) sendUp(ctx context.Context, stream executorpb.Executor_CallClient) {
	for {
		frame, err := p.box.next(ctx)
		if isEnd(err) && p.resumable {
			<-ctx.Done() // the stream is still needed
		}
		switch {
		case err == nil:
			if stream.Send(frame) != nil {
				return // receiving tells why
			}
			continue
		case isEnd(err) && !p.resumable:
		case p.hangsUp(ctx):
			_ = stream.Send(&api.ClientFrame{Kind: &api.ClientFrame_Hangup{Hangup: true}})
		default:
			p.cancel(errDriverGone)
			return
		}
		_ = stream.CloseSend()
		return
	}
}

// sendDown passes output on and returns the call's result. That of a resumable call is delivered at once, and the
// executor keeps its copy until the caller hangs up, or the host's end makes it come back.
func (p *passage) sendDown(ctx context.Context, e *executor, stream executorpb.Executor_CallClient) (*api.Result, error) {
	for {
		frame, err := stream.Recv()
		if err != nil {
			return p.failed(p.c.callError(ctx, e, err))
		}
		result := frame.GetResult()
		switch {
		case result != nil && !p.resumable:
			return result, nil
		case ctx.Err() != nil:
			continue // nobody listens any more: the executor is about to end the stream
		case result != nil:
			err = p.deliver(result)
		default:
			err = p.caller.Send(frame)
		}
		if err != nil {
			p.cancel(errDriverGone)
			if !p.resumable {
				return wire.FailureResult(fault.Systemf("%w", errDriverGone)), nil
			}
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
