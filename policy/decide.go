package policy

import (
	"context"
	"fmt"
	"strings"

	"cel.dev/cel-go/common/types"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// WishVariable is the variable by which a job's author may ask for more isolation: "hypervisor".
const WishVariable = "AIRLOCK_ISOLATION"

// Decide returns what the first rule that matches says, or the default. It is total: a rule that cannot be
// evaluated, because a fact is unknown or it grows too costly, does not match when it would give more than the default; any
// other decides then, and gives nothing beyond the default.
func (p *Policy) Decide(_ context.Context, facts Facts) (Decision, error) {
	if facts.Administrator {
		return administer(p.base, p.digest, facts)
	}
	decision, refusal := p.evaluate(facts, func(*rule, outcome, string) {})
	if refusal != "" {
		return decision, fault.WithRemedy(fault.Adminf("this runner's policy refuses the job: %s", refusal),
			fmt.Sprintf("rule %q of the policy %s", decision.Rule, shortDigest(p.digest)))
	}
	return decision, nil
}

// outcome is what became of a rule.
type outcome string

const (
	matched    outcome = "matched"
	unmatched  outcome = "did not match"
	doubtful   outcome = "could not be evaluated"
	notReached outcome = "not reached"
)

// evaluate tries rule after rule and tells observe of each. A refusal is returned as its message.
func (p *Policy) evaluate(facts Facts, observe func(r *rule, o outcome, why string)) (decision Decision, refusal string) {
	grant, rule, reason := p.base, DefaultRule, "no rule of the policy matched"
	vars := newReader(p.table, facts)
	var doubts []string
	decided := false
	for _, r := range p.rules {
		if decided {
			observe(r, notReached, "")
			continue
		}
		o, why := r.test(vars)
		observe(r, o, why)
		switch {
		case o == matched:
			grant, reason = r.grant, fmt.Sprintf("rule %q of the policy matched", r.Name)
		case o == doubtful && r.weakens:
			doubts = append(doubts, fmt.Sprintf("rule %q gives nothing: %s", r.Name, why))
			continue
		case o == doubtful:
			doubts = append(doubts, fmt.Sprintf("rule %q counts as matched: %s", r.Name, why))
			grant, reason = stricter(r.grant, p.base), fmt.Sprintf("rule %q of the policy is in doubt (%s), and doubt counts against a job", r.Name, why)
		default:
			continue
		}
		decided, rule, refusal = true, r.Name, r.Reject
	}
	decision = grant.decision(rule, p.digest, reason+" ("+shortDigest(p.digest)+")")
	decision.Doubts = doubts
	return heed(decision, facts), refusal
}

// test evaluates a rule for one job.
func (r *rule) test(vars *reader) (outcome, string) {
	value, _, err := r.program.Eval(vars)
	switch {
	case err != nil:
		return doubtful, describeError(err)
	case value == types.True:
		return matched, ""
	default: // checked to be a bool
		return unmatched, ""
	}
}

// describeError says in a few words why an expression has no value. CEL's errors quote facts by name, and values in
// parts: of those nothing may reach a log.
func describeError(err error) string {
	message := err.Error()
	if names, ok := strings.CutPrefix(message, "no such attribute(s): "); ok {
		return names + " is unknown"
	}
	for sign, meaning := range map[string]string{
		"no such key": "a key of claimed.variables is not there", "cost limit": "it grew too costly",
		"index out of bounds": "a list is shorter than it expects",
	} {
		if strings.Contains(message, sign) {
			return meaning
		}
	}
	return "its value is an error"
}

// decision writes a grant as package jobs wants it.
func (g Grant) decision(rule, digest, reason string) Decision {
	return Decision{
		Level: g.Level, Rule: rule, Policy: digest, Reason: reason, Limits: g.Limits, Timeout: g.Timeout, Network: g.Network,
		AllowedImages: g.Images, AllowedServices: g.Services, PullPolicies: g.PullPolicies, CacheScope: g.CacheScope,
	}
}

// heed honours the author's wish for more isolation, whichever of several variables of that name says so, and says
// when a wish is in vain. A wish that nobody understands is taken for one for more.
func heed(d Decision, facts Facts) Decision {
	if facts.IdentityProblem != "" {
		d.Notes = append(d.Notes, "the job's id token is not believed, its facts are unknown: "+facts.IdentityProblem)
	}
	for _, wish := range wishes(facts.Job) {
		switch strings.ToLower(strings.TrimSpace(wish)) {
		case "":
		case isolation.ProcessLevel.String():
			if d.Level > isolation.ProcessLevel {
				d.Notes = append(d.Notes, WishVariable+" can only ask for more isolation: process is ignored")
			}
		default:
			if d.Level < isolation.HypervisorLevel {
				d.Level = isolation.HypervisorLevel
				d.Reason = fmt.Sprintf("the job asked for it with %s; else %s", WishVariable, d.Reason)
			}
		}
	}
	return d
}

func wishes(job *gitlab.JobResponse) []string {
	var list []string
	for _, v := range job.Variables {
		if v.Key == WishVariable {
			list = append(list, string(v.Value))
		}
	}
	return list
}

// administer is the decision for `airlock run`: what the administrator asks for, from any image.
func administer(base Grant, digest string, facts Facts) (Decision, error) {
	d := base.decision(DefaultRule, digest, "it is the level of the runner's configuration")
	d.AllowedImages, d.AllowedServices, d.CacheScope, d.Timeout = nil, nil, "job", 0
	if facts.Requested != 0 {
		d.Level, d.Reason = facts.Requested, "the administrator asked for it"
	}
	switch facts.Network {
	case "":
	case "nat", "none":
		d.Network = facts.Network
	default:
		return Decision{}, fault.Adminf("unknown network %q: use \"nat\" or \"none\"", facts.Network)
	}
	return d, nil
}

// shortDigest is enough of a digest to compare by eye.
func shortDigest(digest string) string {
	const enough = len("sha256:") + 12
	return digest[:min(len(digest), enough)]
}
