package policy

import (
	"context"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// Fixed gives every job the same decision.
type Fixed struct {
	Level   isolation.Level
	Limits  isolation.Limits
	Network string
	// AllowedImages and PullPolicies are as in jobs.Decision.
	AllowedImages, PullPolicies []string
	CacheScope                  string
}

// Decide returns the fixed decision. A job's author may ask for more isolation; an administrator (`airlock run`) for
// another level or network.
func (f Fixed) Decide(_ context.Context, facts jobs.Facts) (jobs.Decision, error) {
	grant := Grant{
		Level: f.Level, Limits: f.Limits, Network: f.Network,
		Images: f.AllowedImages, PullPolicies: f.PullPolicies, CacheScope: f.CacheScope,
	}
	if facts.Administrator {
		return administer(grant, digest(f), facts)
	}
	reason := "isolation = \"" + f.Level.String() + "\" in the runner's configuration"
	return heed(grant.decision(jobs.DefaultRule, digest(f), reason), facts), nil
}
