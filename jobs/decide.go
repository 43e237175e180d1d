package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/policy"
)

// identityTimeout bounds the verification of an id token, which may fetch its issuer's keys.
const identityTimeout = 15 * time.Second

// decide asks the policy, keeps what it says, and finds the runtime of the level it chose. The decision is the
// session's for good: a later policy does not change it.
func (s *Service) decide(ctx context.Context, sess *session, settings Settings, facts policy.Facts, log *joblog.Log) error {
	s.identify(ctx, sess, settings, &facts)
	decision, err := settings.Policy.Decide(ctx, facts)
	for _, note := range decision.Notes {
		log.Warning("%s", note)
	}
	event := sess.log.Info().Str("rule", decision.Rule).Str("policy", decision.Policy).Strs("notes", decision.Notes).Strs("doubts", decision.Doubts)
	if err != nil {
		event.Err(err).Msg("the policy rejects the job")
		if auditErr := s.record(sess, facts, decision, "rejected"); auditErr != nil {
			sess.log.Error().Err(auditErr).Msg("the audit log could not be written")
		}
		return err
	}
	event.Stringer("isolation", decision.Level).Str("reason", decision.Reason).Msg("the policy decides")
	sess.decision = decision
	if err := s.record(sess, facts, decision, "granted"); err != nil {
		return err
	}
	if decision.Timeout > 0 {
		sess.limitTime(s, decision.Timeout)
	}
	sess.runtime, err = s.Runtime(decision.Level)
	return err
}

// identify verifies the id token that the job may carry. One that is not believed leaves its facts unknown, and the
// job log says so.
func (s *Service) identify(ctx context.Context, sess *session, settings Settings, facts *policy.Facts) {
	if settings.Identities == nil || facts.Administrator {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, identityTimeout, errors.New("verifying the id token took too long"))
	defer cancel()
	identity, err := settings.Identities.Verify(ctx, facts.Job)
	if err != nil {
		facts.IdentityProblem = err.Error()
		sess.log.Warn().Err(err).Msg("the job's id token is not believed")
		return
	}
	facts.Identity = identity
}

// limitTime ends the session when the time that the policy gives it has passed since it began. That is the job's failure,
// as with GitLab's own time-out: another attempt would take as long.
func (sess *session) limitTime(s *Service, limit time.Duration) {
	cause := fault.Authorf("the time of %s that this runner's policy gives to the job has passed (rule %q)", limit, sess.decision.Rule)
	sess.overtime = time.AfterFunc(time.Until(sess.created.Add(limit)), func() {
		if err := s.end(context.Background(), sess, cause); err != nil {
			sess.log.Error().Err(err).Msg("a job that was out of time left something for the reaper")
		}
	})
}

// decisionKey is what decisions are counted by.
type decisionKey struct{ rule, isolation string }

// record counts a decision and writes it to the audit log. What an administrator runs by hand is no job's decision.
func (s *Service) record(sess *session, facts policy.Facts, d policy.Decision, outcome string) error {
	if facts.Administrator {
		return nil
	}
	entry := AuditEntry{
		Time: time.Now().UTC(), Sandbox: sess.id, Outcome: outcome, Rule: d.Rule, Policy: d.Policy, Reason: d.Reason, Doubts: d.Doubts,
		JobID: facts.Job.ID, ProjectID: facts.Job.JobInfo.ProjectID, PipelineID: facts.Job.JobInfo.PipelineID, UserID: facts.Job.JobInfo.UserID,
		Project: sess.project, Protected: facts.Job.GitInfo.Protected, RunnerClass: facts.RunnerClass,
	}
	entry.Ref = policy.AttestedText(facts.Job.GitInfo.Ref)
	switch {
	case facts.Identity != nil:
		entry.IDToken = "verified"
	case facts.IdentityProblem != "":
		entry.IDToken = "not believed"
	}
	isolationLabel := outcome
	if outcome != "rejected" {
		isolationLabel = d.Level.String()
		entry.Isolation, entry.Network, entry.CacheScope, entry.TimeoutSeconds = d.Level.String(), d.Network, d.CacheScope, d.Timeout.Seconds()
		entry.Memory, entry.CPUs, entry.PIDs, entry.Scratch = d.Limits.Memory, d.Limits.CPUs, d.Limits.PIDs, d.Limits.Scratch
	}
	s.mu.Lock()
	s.decided[decisionKey{d.Rule, isolationLabel}]++
	s.mu.Unlock()
	if s.audit == nil {
		return nil
	}
	if err := s.audit.Record(entry); err != nil {
		return fault.WithRemedy(fault.Systemf("the decision about this job cannot be recorded, and without that it is not run: %w", err),
			"see that the audit log's disk has room")
	}
	return nil
}

// Decisions counts the policy's decisions since the start, by rule and isolation.
func (s *Service) Decisions() []*api.DecisionCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts []*api.DecisionCount
	for key, n := range s.decided {
		counts = append(counts, &api.DecisionCount{Rule: key.rule, Isolation: key.isolation, Count: n})
	}
	return counts
}
