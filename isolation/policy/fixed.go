// Package policy turns the facts of a job into a decision: which level, which limits, which network.
//
// For now its only policy is Fixed: one level for every job, as the administrator's `isolation` key says. It
// never lets a job's author weaken anything; it is called by package jobs and knows no runtime.
package policy

import (
	"context"

	"github.com/airlock-ci/airlock/executor/api/fault"
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

// Decide returns the fixed decision. An administrator (`airlock run`) may ask for another level or network.
func (f Fixed) Decide(_ context.Context, facts jobs.Facts) (jobs.Decision, error) {
	d := jobs.Decision{
		Level: f.Level, Reason: "isolation = \"" + f.Level.String() + "\" in the runner's configuration",
		Limits: f.Limits, Network: f.Network,
		AllowedImages: f.AllowedImages, PullPolicies: f.PullPolicies, CacheScope: f.CacheScope,
	}
	if !facts.Administrator {
		return d, nil
	}
	d.AllowedImages, d.CacheScope = nil, "job"
	if facts.Requested != 0 {
		d.Level, d.Reason = facts.Requested, "the administrator asked for it"
	}
	switch facts.Network {
	case "":
	case "nat", "none":
		d.Network = facts.Network
	default:
		return jobs.Decision{}, fault.Adminf("unknown network %q: use \"nat\" or \"none\"", facts.Network)
	}
	return d, nil
}
