package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/api/control"
	"github.com/airlock-ci/airlock/internal/fault"
)

// supervisor keeps one executor alive.
type supervisor struct {
	opts         Options
	paths        paths
	checksum     []byte
	grace        time.Duration
	answerWithin time.Duration
	log          zerolog.Logger
	logs         *executorLogs
	metrics      *metrics
	sockets      *sockets
	stored       bool // the service manager has the sockets, too

	mu      sync.Mutex
	current *executor     // nil while there is none
	failure error         // why there is none
	changed chan struct{} // closed and replaced whenever the two above change
}

func newSupervisor(opts Options, where paths, checksum []byte) *supervisor {
	answerWithin := opts.answerWithin
	if answerWithin == 0 {
		answerWithin = answerTimeout
	}
	return &supervisor{
		opts: opts, paths: where, checksum: checksum, sockets: newSockets(opts),
		grace: StopGrace, answerWithin: answerWithin,
		log: opts.Logger, logs: &executorLogs{log: opts.Logger}, changed: make(chan struct{}),
	}
}

// run finds or starts the executor, and starts it again whenever it ends, until ctx does. Its error says that
// the sockets cannot be made, or that the installed executor cannot be used.
func (s *supervisor) run(ctx context.Context) error {
	known := s.recordedSockets() // reattach records those of this supervisor
	e, err := s.reattach(ctx)
	if err == nil {
		s.log.Info().Int("pid", e.record.Process.PID).Str("instance", e.record.Instance).
			Msg("attached to the executor that was left running")
	} else if !errors.Is(err, errNoneLeft) {
		s.log.Error().Err(err).Msg("the executor that was left running is lost; a new one is started")
	}
	if err := s.listen(known); err != nil {
		if e != nil {
			e.leave()
		}
		return err
	}
	return s.keep(ctx, e)
}

// recordedSockets returns the paths at which the recorded executor listens, or did.
func (s *supervisor) recordedSockets() []string {
	r, err := readRecord(s.paths.record())
	if err != nil {
		return nil
	}
	return r.Sockets
}

// listen makes the sockets that nobody kept. From then on callers can connect, and wait for an executor if they must.
// known are the paths of a former supervisor: those that the configuration no longer names go.
func (s *supervisor) listen(known []string) error {
	if err := s.sockets.open(known); err != nil {
		s.sockets.close(false)
		return err
	}
	removeDead(known)
	if s.opts.Store != nil {
		var err error
		if s.stored, err = s.opts.Store(s.sockets.all()); err != nil {
			s.log.Warn().Err(err).Msg("the service manager does not keep the sockets")
		}
	}
	if len(s.sockets.all()) > 0 {
		s.logListening()
	}
	if s.opts.Ready != nil {
		s.opts.Ready()
	}
	return nil
}

func (s *supervisor) logListening() {
	for _, e := range s.opts.entrances() {
		s.log.Info().Str("socket", e.GetPath()).Str("group", e.GetGroup()).Str("runner_class", e.GetRunnerClass()).Msg("listening")
	}
}

// keep attends one executor after the other, beginning with e if that is not nil.
func (s *supervisor) keep(ctx context.Context, e *executor) error {
	pause := backoff{}
	left := false
	defer func() { s.sockets.close(!left && !s.stored) }()
	for ctx.Err() == nil {
		if e == nil {
			var err error
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
		left = s.attend(ctx, e)
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

// attend watches an executor until it ends, is replaced, or ctx ends; then it may be left running.
func (s *supervisor) attend(ctx context.Context, e *executor) (left bool) {
	s.publish(e, nil)
	s.metrics.up.Set(1)
	defer s.metrics.up.Set(0)
	life, stopLogs := context.WithCancelCause(context.Background())
	defer stopLogs(errors.New("the executor has ended"))
	if e.found {
		go s.logs.follow(life, e)
	}
	go s.watch(life, e)
	var idle <-chan time.Time
	if s.outdated(e) {
		s.log.Warn().Msg("the running executor is of another build than the installed one: " +
			"it is replaced as soon as no sandbox lives")
		ticker := time.NewTicker(idleCheck)
		defer ticker.Stop()
		idle = ticker.C
		if s.replaceIdle(ctx, e) {
			return false
		}
	}
	for {
		select {
		case <-e.process.Exited():
			s.publish(nil, errExecutorEnded)
			s.log.Error().Int("pid", e.record.Process.PID).Msg("the executor has ended; its sandboxes end with it")
			e.forget()
			return false
		case <-idle:
			if s.replaceIdle(ctx, e) {
				return false
			}
		case <-ctx.Done():
			return s.part(e)
		}
	}
}

// watch asks the executor from time to time whether it answers, until ctx ends. One that does not is told of, and not
// ended: its jobs may still run.
func (s *supervisor) watch(ctx context.Context, e *executor) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		_, err := s.askVersion(ctx, e.rpc)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !silent:
			s.log.Error().Err(err).Int("pid", e.record.Process.PID).Msg("the executor lives but does not answer")
			s.metrics.up.Set(0)
		case err == nil && silent:
			s.log.Info().Int("pid", e.record.Process.PID).Msg("the executor answers again")
			s.metrics.up.Set(1)
		}
		silent = err != nil
	}
}

// scrape asks the executor, if there is one, for its figures.
func (s *supervisor) scrape(ctx context.Context) []byte {
	s.mu.Lock()
	e := s.current
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	reply, err := e.rpc.Metrics(ctx, &control.MetricsRequest{})
	if err != nil {
		s.log.Debug().Err(err).Msg("the executor's figures are not known")
	}
	return reply.GetText()
}

// errExecutorEnded is why there is no executor between two.
var errExecutorEnded = errors.New("the executor ended unexpectedly and is being restarted")

// idleCheck is how often an executor that should be replaced is asked whether it may be.
const idleCheck = 5 * time.Second

// replaceIdle ends the executor if nothing would be lost by it: no call and no sandbox.
func (s *supervisor) replaceIdle(ctx context.Context, e *executor) bool {
	if drained, err := e.drain(ctx); err != nil || !drained.GetDrained() {
		return false
	}
	s.publish(nil, errors.New("the executor is being replaced"))
	if err := e.end(s.grace); err != nil {
		s.log.Error().Err(err).Msg("replacing the executor")
	}
	s.log.Info().Msg("the idle executor was ended, to be replaced by the installed one")
	return true
}

// part ends or leaves the executor when the service stops.
func (s *supervisor) part(e *executor) (left bool) {
	s.publish(nil, errStopping)
	stop := s.opts.StopExecutor
	if !stop {
		reply, err := e.drain(context.Background())
		stop = err == nil && reply.GetDrained()
		s.log.Info().Uint32("sandboxes", reply.GetSandboxes()).Uint32("calls", reply.GetCalls()).AnErr("drain_error", err).
			Bool("stop", stop).Msg("deciding about the executor")
	}
	if stop {
		if err := e.end(s.grace); err != nil {
			s.log.Error().Err(err).Msg("stopping the executor")
			return false
		}
		s.log.Info().Msg("the executor has stopped")
		return false
	}
	e.record.Left = time.Now().UTC()
	if err := writeRecord(s.paths.record(), e.record); err != nil {
		s.log.Error().Err(err).Msg("recording the executor")
	}
	s.log.Info().Int("pid", e.record.Process.PID).Msg("the executor is left running for its sandboxes")
	e.leave()
	return true
}

// publish says which executor there is, or why there is none.
func (s *supervisor) publish(e *executor, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.failure = e, failure
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns the executor. It waits a while for one that is being started; the error is the system's and says why
// there is none.
func (s *supervisor) await(ctx context.Context) (*executor, error) {
	patience := time.NewTimer(reloadPatience)
	defer patience.Stop()
	for {
		s.mu.Lock()
		e, failure, changed := s.current, s.failure, s.changed
		s.mu.Unlock()
		if e != nil {
			return e, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fault.Systemf("waiting for the executor: %w", context.Cause(ctx))
		case <-patience.C:
			if failure == nil {
				failure = errors.New("it is still starting")
			}
			return nil, fault.Systemf("there is no executor after %s: %w", reloadPatience, failure)
		}
	}
}

// reload makes the executor read its configuration again.
func (s *supervisor) reload(ctx context.Context) error {
	e, err := s.await(ctx)
	if err != nil {
		return err
	}
	_, err = e.rpc.Reload(ctx, &control.ReloadRequest{})
	return control.FromStatus(err)
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

// StopExecutor ends the executor of a run directory while no supervisor runs there, and by that every sandbox. It
// is no error when none lives.
func StopExecutor(runDir string, log zerolog.Logger) error {
	where := paths{runDir}
	if err := where.prepare(); err != nil {
		return fault.Adminf("opening the run directory %s: %w", runDir, err)
	}
	lock, err := acquireLock(where)
	if err != nil {
		return err
	}
	defer lock.Release()
	s := &supervisor{paths: where, grace: StopGrace, log: log}
	if err := s.endForgotten(); err != nil {
		return fmt.Errorf("stopping the executor: %w", err)
	}
	removeDead(s.recordedSockets())
	return nil
}
