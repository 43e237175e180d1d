package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/failpoint"
	"github.com/airlock-ci/airlock/internal/fault"
)

// cleanupTimeout bounds the destruction of one sandbox; what is not gone by then is the reaper's.
const cleanupTimeout = 2 * time.Minute

// Cleanup destroys a job's sandbox and all it owned. It may come while a stage still runs, which it ends;
// twice; or for a job that was never prepared: then there is nothing to do.
func (s *Service) Cleanup(ctx context.Context, req *api.Cleanup) error {
	handle, err := gitlab.ParseHandle(req.Handle)
	if err != nil {
		return fault.Systemf("cleanup was called with a bad %s: %w", gitlab.HandleVariable, err)
	}
	sess := s.byHandle(handle)
	if sess == nil {
		return nil
	}
	return s.end(ctx, sess, errCleanedUp)
}

// end ends a session for a cause and returns when nothing of it is left, or says what is. The second
// caller waits for the first. A caller may lose interest (ctx); the destruction goes on with its own deadline.
func (s *Service) end(ctx context.Context, sess *session, cause error) error {
	sess.ending.Do(func() {
		sess.end(cause)
		ctx := context.WithoutCancel(ctx)
		go func() {
			defer close(sess.gone)
			ctx, cancel := context.WithTimeoutCause(ctx, cleanupTimeout, errors.New("the destruction took too long"))
			defer cancel()
			<-sess.prepared // prepare sees the cause, and undoes nothing itself
			if sess.overtime != nil {
				sess.overtime.Stop()
			}
			sess.endErr = s.destroy(ctx, sess)
		}()
	})
	select {
	case <-sess.gone:
		return sess.endErr
	case <-ctx.Done():
		return fault.Systemf("the clean-up goes on in the background: %w", context.Cause(ctx))
	}
}

// destroy undoes what the session owns, in reverse order, and goes on past failures: each thing that can go
// must go. What cannot stays journaled, and the reaper tries again.
func (s *Service) destroy(ctx context.Context, sess *session) error {
	start := time.Now()
	var errs []error
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	try("cleanup", failpoint.Hit("cleanup/started"))
	// The kernel takes its time to remove a link, about as long as all the rest takes: so that goes on beside it.
	detached := make(chan error, 1)
	detach := func() { detached <- s.networks.Detach(ctx, sess.id) }
	_, patient := s.networks.(Patient)
	if !patient {
		go detach()
	}
	var alive error
	switch {
	case sess.sandbox != nil:
		alive = sess.sandbox.Destroy(ctx)
	case sess.begun: // and not finished: what failed may have left something that does not go
		alive = sess.runtime.Destroy(ctx, sess.id)
	}
	try("ending the sandbox", alive)
	if patient {
		if alive != nil {
			// It still has its network, scratch and base: the reaper goes on from here once it has let go.
			return s.leave(sess, errs, start)
		}
		go detach()
	}
	try("cleanup", failpoint.Hit("cleanup/sandbox-gone"))
	try("discarding the scratch", s.layers.DestroyScratch(ctx, sess.id))
	try("cleanup", failpoint.Hit("cleanup/scratch-gone"))
	try("detaching the network", <-detached)
	try("cleanup", failpoint.Hit("cleanup/network-gone"))
	if alive == nil {
		s.layers.Release(sess.id) // else the reaper does
	}
	if len(errs) == 0 && !sess.abandoned.Load() {
		try("forgetting the job", s.journal.End(ctx, sess.id))
	}
	return s.leave(sess, errs, start)
}

// leave forgets an ended session, with what went wrong.
func (s *Service) leave(sess *session, errs []error, start time.Time) error {
	sess.mu.Lock()
	sess.runner.close()
	sess.runner = nil
	sess.mu.Unlock()
	s.unregister(sess)
	err := errors.Join(errs...)
	event := sess.log.Info()
	if err != nil {
		event = sess.log.Error().Err(err)
	}
	event.AnErr("cause", context.Cause(sess.ctx)).Dur("took_ms", time.Since(start)).Dur("lived_ms", time.Since(sess.created)).Msg("sandbox destroyed")
	if err != nil {
		return fault.Systemf("destroying sandbox %s: %w", sess.id, err)
	}
	return nil
}
