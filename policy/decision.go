package policy

import (
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// Decision is what the policy allows a job.
type Decision struct {
	Level isolation.Level
	// Rule is the name of the rule that decided, "default" when none did.
	Rule string
	// Policy is the digest of the policy in force, "sha256:...".
	Policy string
	// Reason says, for the job log, what decided.
	Reason string
	// Notes are further lines for the job log: what was not believed, not known, or asked for in vain.
	Notes []string
	// Doubts say, for the executor's log, which rules could not be evaluated, and why.
	Doubts []string
	Limits isolation.Limits
	// Timeout ends the job after its preparation began; 0 leaves it to GitLab.
	Timeout time.Duration
	// Network is "nat" or "none".
	Network string
	// AllowedImages are patterns of package imagepattern; empty allows every image.
	AllowedImages []string
	// AllowedServices are the patterns for the images of services; empty allows every one.
	AllowedServices []string
	// PullPolicies are the allowed ones, the first is the default.
	PullPolicies []string
	// CacheScope is "project" (kept between the jobs of one project) or "job".
	CacheScope string
}

// DefaultRule is the name under which a decision that no rule made is counted.
const DefaultRule = "default"
