package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/internal/fault"
)

// supervisor keeps one executor alive and hands it to calls.
type supervisor struct {
	opts         Options
	paths        paths
	checksum     []byte
	grace        time.Duration
	answerWithin time.Duration
	log          zerolog.Logger
	logs         *executorLogs
	metrics      *metrics
	classes      *classes

	mu      sync.Mutex
	current *executor     // nil while there is none
	failure error         // why there is none
	changed chan struct{} // closed and replaced whenever the two above change
	calls   int           // that hold current
}

func newSupervisor(opts Options, where paths, checksum []byte, metrics *metrics) *supervisor {
	answerWithin := opts.answerWithin
	if answerWithin == 0 {
		answerWithin = answerTimeout
	}
	return &supervisor{
		opts: opts, paths: where, checksum: checksum, metrics: metrics, classes: newClasses(opts),
		grace: StopGrace, answerWithin: answerWithin,
		log: opts.Logger, logs: &executorLogs{log: opts.Logger}, changed: make(chan struct{}),
	}
}

// run finds or starts the executor, and starts it again whenever it ends, until ctx does. Its error says that
// the installed executor cannot be used.
func (s *supervisor) run(ctx context.Context) error {
	pause := backoff{}
	e, err := s.reattach(ctx)
	if err == nil {
		s.log.Info().Int("pid", e.record.Process.PID).Str("instance", e.record.Instance).
			Msg("attached to the executor that was left running")
	} else if !errors.Is(err, errNoneLeft) {
		s.log.Error().Err(err).Msg("the executor that was left running is lost; a new one is started")
	}
	for ctx.Err() == nil {
		if e == nil {
			if e, err = s.launch(ctx); err != nil {
				s.publish(nil, err)
				if ctx.Err() != nil {
					return nil
				}
				s.log.Error().Err(err).Msg("the executor could not be started")
				if errors.Is(err, errUnusable) {
					return err
				}
				pause.wait(ctx)
				continue
			}
			s.log.Info().Int("pid", e.record.Process.PID).Str("instance", e.record.Instance).
				Str("version", e.version.GetVersion()).Msg("the executor has started")
		}
		since := time.Now()
		s.attend(ctx, e)
		if time.Since(since) > healthyAfter {
			pause = backoff{}
		}
		if e = nil; ctx.Err() == nil {
			s.metrics.restarts.Inc()
			pause.wait(ctx)
		}
	}
	return nil
}

// attend offers an executor to calls until it ends, is replaced, or ctx ends.
func (s *supervisor) attend(ctx context.Context, e *executor) {
	s.publish(e, nil)
	s.metrics.up.Set(1)
	defer s.metrics.up.Set(0)
	life, stopLogs := context.WithCancelCause(context.Background())
	defer stopLogs(errors.New("the executor has ended"))
	if e.found {
		go s.logs.follow(life, e)
	}
	var idle <-chan time.Time
	if s.outdated(e) {
		s.log.Warn().Msg("the running executor is of another build than the installed one: " +
			"it is replaced as soon as no sandbox lives")
		ticker := time.NewTicker(idleCheck)
		defer ticker.Stop()
		idle = ticker.C
		if s.replaceIdle(ctx, e) {
			return
		}
	}
	for {
		select {
		case <-e.process.Exited():
			s.publish(nil, errExecutorEnded)
			s.log.Error().Int("pid", e.record.Process.PID).Msg("the executor has ended; its sandboxes end with it")
			e.forget()
			return
		case <-e.suspected:
			s.examine(ctx, e)
		case <-idle:
			if s.replaceIdle(ctx, e) {
				return
			}
		case <-ctx.Done():
			s.part(e)
			return
		}
	}
}

// decisions asks the executor, if there is one, what its policy decided.
func (s *supervisor) decisions(ctx context.Context) []*api.DecisionCount {
	e := s.living()
	if e == nil {
		return nil
	}
	reply, err := e.rpc.Decisions(ctx, &api.DecisionsRequest{})
	if err != nil {
		s.log.Debug().Err(err).Msg("the policy's decisions are not known")
	}
	return reply.GetCounts()
}

// images asks the executor, if there is one, what its cache holds.
func (s *supervisor) images(ctx context.Context) *api.ImagesReply {
	e := s.living()
	if e == nil {
		return nil
	}
	reply, err := e.rpc.Images(ctx, &api.ImagesRequest{})
	if err != nil {
		s.log.Debug().Err(err).Msg("the cache's use is not known")
		return nil
	}
	return reply
}

// living returns the executor that calls go to now, or nil.
func (s *supervisor) living() *executor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// errExecutorEnded is why there is no executor between two.
var errExecutorEnded = errors.New("the executor ended unexpectedly and is being restarted")

// suspect takes an executor away from further calls because one lost its connection to it. Connections break a
// moment before the process counts as ended; a call in that moment would fail for nothing.
func (s *supervisor) suspect(e *executor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != e {
		return
	}
	s.set(nil, errExecutorEnded)
	select {
	case e.suspected <- struct{}{}:
	default:
	}
}

// examine gives a suspected executor back to calls when it lives and answers.
func (s *supervisor) examine(ctx context.Context, e *executor) {
	select {
	case <-e.process.Exited():
		return // attend sees it too
	case <-ctx.Done():
		return
	case <-time.After(time.Second):
	}
	if _, err := s.askVersion(ctx, e.rpc); err != nil {
		s.log.Error().Err(err).Int("pid", e.record.Process.PID).Msg("the executor lives but does not answer")
		e.suspected <- struct{}{} // empty: attend has just received from it, and suspect skips who is not current
		return
	}
	s.publish(e, nil)
}

// idleCheck is how often an executor that should be replaced is asked whether it may be.
const idleCheck = 5 * time.Second

// replaceIdle ends the executor if nothing would be lost by it: no call and no sandbox.
func (s *supervisor) replaceIdle(ctx context.Context, e *executor) bool {
	s.mu.Lock()
	if s.calls > 0 {
		s.mu.Unlock()
		return false
	}
	s.set(nil, errors.New("the executor is being replaced")) // no call may begin meanwhile
	s.mu.Unlock()

	sandboxes, calls, err := e.needed(ctx)
	if err != nil || sandboxes+calls > 0 {
		s.publish(e, nil)
		return false
	}
	if err := e.end(s.grace); err != nil {
		s.log.Error().Err(err).Msg("replacing the executor")
	}
	s.log.Info().Msg("the idle executor was ended, to be replaced by the installed one")
	return true
}

// part ends or leaves the executor when the host stops.
func (s *supervisor) part(e *executor) {
	s.publish(nil, errStopping)
	stop := s.opts.StopExecutor
	if !stop {
		sandboxes, calls, err := e.needed(context.Background())
		stop = err == nil && sandboxes+calls == 0
		s.log.Info().Int("sandboxes", sandboxes).Int("calls", calls).AnErr("list_error", err).Bool("stop", stop).
			Msg("deciding about the executor")
	}
	if stop {
		if err := e.end(s.grace); err != nil {
			s.log.Error().Err(err).Msg("stopping the executor")
			return
		}
		s.log.Info().Msg("the executor has stopped")
		return
	}
	e.record.Left = time.Now().UTC()
	if err := writeRecord(s.paths.record(), e.record); err != nil {
		s.log.Error().Err(err).Msg("recording the executor")
	}
	s.log.Info().Int("pid", e.record.Process.PID).Msg("the executor is left running for its sandboxes")
	e.leave()
}

func (s *supervisor) publish(e *executor, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(e, failure)
}

// set must be called with mu held.
func (s *supervisor) set(e *executor, failure error) {
	s.current, s.failure = e, failure
	close(s.changed)
	s.changed = make(chan struct{})
}

// acquire returns the executor for one call, which ends with release. It waits a while for one that is being
// started; the error is the system's and says why there is none.
func (s *supervisor) acquire(ctx context.Context) (e *executor, release func(), err error) {
	patience := time.NewTimer(callerPatience)
	defer patience.Stop()
	for {
		s.mu.Lock()
		e, failure, changed := s.current, s.failure, s.changed
		if e != nil {
			s.calls++
			s.mu.Unlock()
			return e, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.calls--
			}, nil
		}
		s.mu.Unlock()
		if errors.Is(failure, errStopping) {
			return nil, nil, fault.Systemf("%w", errStopping)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, fault.Systemf("waiting for the executor: %w", context.Cause(ctx))
		case <-patience.C:
			if failure == nil {
				failure = errors.New("it is still starting")
			}
			return nil, nil, fault.WithRemedy(fault.Systemf("there is no executor after %s: %w",
				callerPatience, failure), "see the service's log")
		}
	}
}

// reload makes the executor read its configuration again.
func (s *supervisor) reload(ctx context.Context) error {
	s.classes.refresh()
	e, release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	_, err = e.rpc.Reload(ctx, &api.ReloadRequest{})
	return wire.FromStatus(err)
}

// healthyAfter is how long an executor must have lived for its end to count as the first of a row.
const healthyAfter = time.Minute

// backoff is the growing pause between two starts: 100 ms to 30 s.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, 100*time.Millisecond), 30*time.Second)
	return b.last
}

func (b *backoff) wait(ctx context.Context) {
	select {
	case <-time.After(b.next()):
	case <-ctx.Done():
	}
}

// StopExecutor ends the executor of a run directory while no host runs there, and by that every sandbox. It
// is no error when none lives.
func StopExecutor(runDir string, log zerolog.Logger) error {
	where := paths{runDir}
	if err := where.prepare(); err != nil {
		return fault.Adminf("opening the run directory %s: %w", runDir, err)
	}
	lock, err := acquireHostLock(where)
	if err != nil {
		return err
	}
	defer lock.Release()
	s := &supervisor{paths: where, grace: StopGrace, log: log}
	if err := s.endForgotten(); err != nil {
		return fmt.Errorf("stopping the executor: %w", err)
	}
	return nil
}
