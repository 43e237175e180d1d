package jobs

import (
	"fmt"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// A job's image is known only after the policy has decided, and it may not run at the decided level on this host: on
// Windows, an image that was made for another build cannot share the host's kernel.

// outcomeEscalated is what the audit log calls an escalation. The value is published.
const outcomeEscalated = "raised"

// fit escalates a job to the hypervisor level when its image does not fit the process level here, and tells its author
// why. It reports whether it did: then the image has to be made ready for that level. It never goes the other way: an image
// that does not fit the stronger level is the author's failure.
func (s *Service) fit(sess *session, facts policy.Facts, image isolation.ImageConfig, log *joblog.Log) (escalated bool, err error) {
	decision, err := s.escalate(sess.decision, image)
	if err != nil || decision.Level == sess.decision.Level {
		return false, err
	}
	log.Note("Raised to %s isolation: %s", decision.Level, decision.Reason)
	sess.log.Info().Stringer("from", sess.decision.Level).Stringer("to", decision.Level).Str("reason", decision.Reason).Msg("job escalated")
	sess.decision = decision
	if err := s.record(sess, facts, decision, outcomeEscalated); err != nil {
		return false, err
	}
	sess.runtime, err = s.Runtime(decision.Level)
	return true, err
}

// escalate returns the decision for an image: the same, or at a stronger level.
func (s *Service) escalate(decision policy.Decision, image isolation.ImageConfig) (policy.Decision, error) {
	fits, reason := s.fits(decision.Level, image)
	if fits {
		return decision, nil
	}
	const remedy = "use an image for this host's version of Windows"
	if decision.Level != isolation.ProcessLevel {
		return decision, fault.WithRemedy(fault.Authorf("the image cannot run here: %s", reason), remedy)
	}
	if _, err := s.Runtime(isolation.HypervisorLevel); err != nil {
		return decision, fault.WithRemedy(fault.Authorf("the image cannot run at level %s here, as %s, and %w", decision.Level, reason, err), remedy)
	}
	if fits, stronger := s.fits(isolation.HypervisorLevel, image); !fits {
		return decision, fault.WithRemedy(fault.Authorf("the image cannot run here: %s", stronger), remedy)
	}
	decision.Level = isolation.HypervisorLevel
	decision.Reason = fmt.Sprintf("%s; %s", reason, decision.Reason)
	return decision, nil
}

// fits reports whether a level's runtime can run an image, and if not, why. A runtime that knows of no such images runs all.
func (s *Service) fits(level isolation.Level, image isolation.ImageConfig) (bool, string) {
	fitter, ok := s.runtimes[level].(isolation.Fitter)
	if !ok {
		return true, ""
	}
	return fitter.Fits(image)
}
