package jobs

import (
	"context"
	"time"
)

// Jobs whose runner died are never cleaned up by it: GitLab Runner calls cleanup_exec only while it lives.
// Their sandboxes are ended here; what a dead executor left is found by the reaper (jobs/reaper).

// sweepInterval is how often orphans are looked for.
const sweepInterval = 2 * time.Second

// SweepOrphans ends orphaned jobs until ctx ends.
func (s *Service) SweepOrphans(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.sweep(ctx, now)
		}
	}
}

func (s *Service) sweep(ctx context.Context, now time.Time) {
	settings := *s.settings.Load()
	for _, sess := range s.all() {
		if !sess.orphaned(now, settings) {
			continue
		}
		sess.log.Warn().Msg("no call came for this job and its runner is gone or silent: ending it")
		if sess.runnerEnded() { // it removes nothing any more: the job response with its secrets is in its directory
			err := s.journal.Intend(ctx, sess.id, EffectRunnerDir)
			sess.abandoned.Store(err == nil)
		}
		if err := s.end(ctx, sess, errOrphaned); err != nil {
			sess.log.Error().Err(err).Msg("an orphan left something for the reaper")
		}
	}
}
