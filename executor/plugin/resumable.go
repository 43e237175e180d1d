package plugin

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/executorpb"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

const (
	// resumeGrace is how long a call goes on without its driver when the host has gone.
	resumeGrace = 30 * time.Second
	// remembered is how long the id of a call that was given up stays known. A driver that comes back later
	// than anyone waits for must not take its call for one that never began, and run a script twice.
	remembered = 10 * time.Minute
	// callIDSize is the size of a call id in bytes; it is written in hex.
	callIDSize = 16
)

// errElsewhere is why an attachment ends when a later one takes its place.
var errElsewhere = errors.New("the call was resumed over another connection")

// call is a resumable call: it runs on its own, and one stream after another attaches to it.
type call struct {
	in     *inputs
	out    *backlog
	cancel context.CancelCauseFunc
	grace  time.Duration
	log    zerolog.Logger
	forget func() // removes it from the service

	mu       sync.Mutex
	attached *attachment // nil: the driver is away
	away     *time.Timer // what ends the call then
	signals  int         // how many were taken
	answered bool        // the result was sent
	stopping bool
	given    error // why the call was given up
}

// attachment is one stream's hold of a call.
type attachment struct{ end context.CancelCauseFunc }

// callID returns the id that makes a call resumable, "" for one that is not.
func callID(open *api.ClientFrame) string {
	switch kind := open.GetKind().(type) {
	case *api.ClientFrame_Prepare:
		return kind.Prepare.GetCallId()
	case *api.ClientFrame_Run:
		return kind.Run.GetCallId()
	default:
		return ""
	}
}

// callResumable receives the whole input, which belongs to this stream alone, and starts the call.
func (s *service) callResumable(ctx context.Context, id string, open *api.ClientFrame,
	stream executorpb.Executor_CallServer,
) error {
	out := &outputs{stream: stream}
	input, err := receiveInput(ctx, open, stream.Recv)
	if err != nil {
		return out.end(wire.FailureResult(err))
	}
	c, err := s.start(stream.Context(), id, open, input)
	if err != nil {
		return out.end(wire.FailureResult(err))
	}
	return c.serve(ctx, &api.Resume{}, stream)
}

// receiveInput receives the input of a prepare or run.
func receiveInput(ctx context.Context, open *api.ClientFrame, recv func() (*api.ClientFrame, error)) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errCallEnded)
	in := newInputs(ctx, open, cancel)
	defer in.close()
	ended := false
	go in.receive(func() (*api.ClientFrame, error) {
		if ended {
			return nil, io.EOF // what follows the data is for whoever is attached
		}
		frame, err := recv()
		ended = frame.GetEnd()
		return frame, err
	})
	input, err := in.readAll(open)
	if cause := in.violation(); cause != nil {
		return nil, cause
	}
	return input, err
}

// start starts a call unless the stream over which it was made has ended: a driver that heard since that the call
// never began makes it anew. One of this id that runs already is returned as it is.
func (s *service) start(stream context.Context, id string, open *api.ClientFrame, input []byte) (*call, error) {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != callIDSize {
		return nil, fault.Systemf("a call's id has %d hex digits", 2*callIDSize)
	}
	life, finish, err := s.begin(context.Background())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(life)
	c := &call{
		in: newInputs(ctx, open, cancel), out: newBacklog(), cancel: cancel, grace: s.grace, log: callLog(s.log, open),
		forget: func() { s.forget(id) },
	}
	c.in.fill(input)
	s.mu.Lock()
	running, ended := s.calls[id], stream.Err() != nil
	if running == nil && !ended {
		s.calls[id] = c
	}
	s.mu.Unlock()
	switch {
	case running != nil:
		finish()
		return running, nil
	case ended:
		finish()
		return nil, ErrCallerGone
	}
	context.AfterFunc(life, func() {
		if errors.Is(context.Cause(life), ErrStopping) {
			c.stop()
		}
	})
	go func() {
		defer finish()
		c.out.end(s.answer(ctx, open, c.in, c.out))
	}()
	return c, nil
}

func callLog(log zerolog.Logger, open *api.ClientFrame) zerolog.Logger {
	handle, stage := open.GetPrepare().GetHandle(), "prepare"
	if run := open.GetRun(); run != nil {
		handle, stage = run.GetHandle(), run.GetStage()
	}
	with := log.With().Str("stage", stage)
	if parsed, err := gitlab.ParseHandle(handle); err == nil {
		with = with.Int64("job_id", parsed.JobID())
	}
	return with.Logger()
}

// resume attaches a stream to a call that runs.
func (s *service) resume(ctx context.Context, resume *api.Resume, stream executorpb.Executor_CallServer) error {
	s.mu.Lock()
	c := s.calls[resume.GetCallId()]
	s.mu.Unlock()
	if c == nil {
		result := wire.FailureResult(fault.WithRemedy(fault.Systemf("the executor does not know this call: it has "+
			"restarted since"), "retry the job"))
		result.Unknown = true
		return (&outputs{stream: stream}).end(result)
	}
	return c.serve(ctx, resume, stream)
}

func (s *service) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
}

// pendingCalls counts the resumable calls that run, or whose result nobody has been sent.
func (s *service) pendingCalls() (count uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.pending() {
			count++
		}
	}
	return count
}

// serve is one attachment: it sends the frames that the driver does not have, as they come, and returns when
// somebody else attaches, the stream ends, or nobody needs the call any more.
func (c *call) serve(ctx context.Context, resume *api.Resume, stream executorpb.Executor_CallServer) error {
	here, end := context.WithCancelCause(stream.Context())
	defer end(errCallEnded)
	mine := &attachment{end: end}
	if err := c.attach(here, mine, resume); err != nil {
		return (&outputs{stream: stream}).end(wire.FailureResult(err))
	}
	defer c.detach(mine)
	go c.listen(mine, stream.Recv)

	for next := resume.GetReceived() + 1; ; next++ {
		frame, err := c.out.frame(here, next)
		if err == nil {
			err = stream.Send(frame)
		}
		if err != nil {
			return endOfStream(here)
		}
		if frame.GetResult() != nil {
			c.markAnswered()
			break
		}
	}
	select { // the driver may have to ask for the result again
	case <-here.Done():
	case <-ctx.Done(): // the executor is stopping
	}
	return endOfStream(here)
}

// endOfStream is how a stream ends for its host.
func endOfStream(here context.Context) error {
	if cause := context.Cause(here); errors.Is(cause, errElsewhere) {
		return wire.ToStatus(fault.Systemf("%w", cause))
	}
	return nil
}

// attach makes a stream the call's, in place of any other, and catches up on what got lost on the way here.
func (c *call) attach(ctx context.Context, mine *attachment, resume *api.Resume) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return ErrCallerGone // a connection that broke takes the call from no other
	}
	if c.given != nil {
		return fault.WithRemedy(fault.Systemf("the call was given up: %w", c.given), "retry the job")
	}
	if !c.out.readableAfter(resume.GetReceived()) || resume.GetAcknowledged() > resume.GetReceived() {
		return fault.Systemf("%d frames of the call were received: that cannot be", resume.GetReceived())
	}
	if err := c.out.acknowledge(resume.GetAcknowledged()); err != nil {
		return fault.Systemf("%w", err)
	}
	if c.attached != nil {
		c.attached.end(errElsewhere)
	}
	if c.away != nil {
		c.away.Stop()
		c.away = nil
		c.log.Info().Uint64("received", resume.GetReceived()).Msg("the driver came back to its call")
	}
	c.attached = mine
	for i, signal := range resume.GetSignals() {
		if i >= c.signals {
			c.signal(signal)
		}
	}
	return nil
}

// detach leaves the call to itself, unless another stream has it already.
func (c *call) detach(mine *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attached != mine {
		return
	}
	c.attached = nil
	if c.stopping {
		c.giveUp(ErrStopping)
		return
	}
	c.log.Info().Dur("grace_ms", c.grace).Msg("the host has gone under a call: its driver may come back")
	var timer *time.Timer
	timer = time.AfterFunc(c.grace, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.away == timer {
			c.log.Warn().Msg("the driver did not come back: its call ends")
			c.giveUp(ErrDriverLost)
		}
	})
	c.away = timer
}

// stop ends the waiting for drivers: the executor is ending.
func (c *call) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if c.attached == nil {
		c.giveUp(ErrStopping)
	}
}

// giveUp ends the call because nobody waits for its result, and must be called with mu held. It stays known for a
// while.
func (c *call) giveUp(cause error) {
	if c.given != nil {
		return
	}
	c.given = cause
	if c.away != nil {
		c.away.Stop()
		c.away = nil
	}
	if c.attached != nil {
		c.attached.end(cause)
		c.attached = nil
	}
	c.cancel(cause)
	c.out.drop(cause)
	time.AfterFunc(remembered, c.forget)
}

func (c *call) markAnswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
}

// pending reports whether the call would be lost with the executor. A result that was sent most likely arrived.
func (c *call) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.given == nil && !c.answered
}

// listen takes what the attached driver sends until its stream ends.
func (c *call) listen(mine *attachment, recv func() (*api.ClientFrame, error)) {
	for {
		frame, err := recv()
		if err != nil || !c.take(mine, frame) {
			return // serve learns of the stream's end too
		}
	}
}

// take handles one frame; false when the attachment has ended.
func (c *call) take(mine *attachment, frame *api.ClientFrame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attached != mine {
		return false
	}
	var err error
	switch kind := frame.GetKind().(type) {
	case *api.ClientFrame_Ack:
		err = c.out.acknowledge(kind.Ack)
	case *api.ClientFrame_Signal:
		c.signal(kind.Signal)
	case *api.ClientFrame_Hangup:
		c.giveUp(ErrCallerGone)
		return false
	default:
		err = fmt.Errorf("%T within a resumable call", frame.GetKind())
	}
	if err != nil {
		c.in.fail(err)
	}
	return true
}

// signal must be called with mu held.
func (c *call) signal(number uint32) {
	c.signals++
	c.in.takeSignal(int(number))
}
