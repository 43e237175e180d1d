package policy

import (
	"fmt"
)

// Explanation is a decision with everything that led to it. Its JSON names are a promise to scripts.
type Explanation struct {
	// Policy is the policy's digest.
	Policy string `json:"policy"`
	// Decision is nil when the job is refused.
	Decision *Outcome `json:"decision"`
	// Rule is the rule that decided, "default" when none did.
	Rule string `json:"rule"`
	// Refusal is the message of the rule that refused the job.
	Refusal string   `json:"refusal,omitempty"`
	Reason  string   `json:"reason"`
	Notes   []string `json:"notes,omitempty"`
	Rules   []Step   `json:"rules"`
}

// Outcome is what a job gets. Sizes are in bytes; 0 is no limit; empty lists allow all.
type Outcome struct {
	Isolation    string   `json:"isolation"`
	Memory       int64    `json:"memory_bytes"`
	CPUs         float64  `json:"cpus"`
	PIDs         int64    `json:"pids"`
	Scratch      int64    `json:"scratch_bytes"`
	Timeout      float64  `json:"timeout_seconds"`
	Network      string   `json:"network"`
	Images       []string `json:"images"`
	Services     []string `json:"services"`
	PullPolicies []string `json:"pull_policies"`
	Cache        string   `json:"cache"`
}

// Step is what became of one rule.
type Step struct {
	Name string `json:"name"`
	When string `json:"when"`
	// Outcome is "matched", "did not match", "could not be evaluated" or "not reached".
	Outcome string `json:"outcome"`
	// Why says more when there is more to say.
	Why string `json:"why,omitempty"`
	// Grants is what the rule would change, as "isolation process".
	Grants []string `json:"grants"`
	Facts  []Fact   `json:"facts"`
}

// Fact is a fact that a rule reads.
type Fact struct {
	Name       string     `json:"name"`
	Known      bool       `json:"known"`
	Value      any        `json:"value"`
	Provenance Provenance `json:"provenance"`
	Source     string     `json:"source"`
}

// Explain decides as Decide does, and tells how.
func (p *Policy) Explain(facts Facts) Explanation {
	e := Explanation{Policy: p.digest, Rules: []Step{}}
	vars := newReader(p.table, facts)
	decision, refusal := p.evaluate(facts, func(r *rule, o outcome, why string) {
		step := Step{Name: r.Name, When: r.When, Outcome: string(o), Why: why, Grants: p.grants(r), Facts: []Fact{}}
		if o == doubtful {
			step.Why += "; " + consequence(r)
		}
		for _, name := range r.reads {
			step.Facts = append(step.Facts, p.fact(vars, name))
		}
		e.Rules = append(e.Rules, step)
	})
	e.Rule, e.Reason, e.Notes, e.Refusal = decision.Rule, decision.Reason, decision.Notes, refusal
	if refusal == "" {
		e.Decision = newOutcome(decision)
	}
	return e
}

func consequence(r *rule) string {
	if r.weakens {
		return "it gives more than the default, so in doubt it does not match"
	}
	return "it gives no more than the default, so in doubt it decides, and gives nothing beyond the default"
}

func newOutcome(d Decision) *Outcome {
	return &Outcome{
		Isolation: d.Level.String(), Memory: d.Limits.Memory, CPUs: d.Limits.CPUs, PIDs: d.Limits.PIDs, Scratch: d.Limits.Scratch,
		Timeout: d.Timeout.Seconds(), Network: d.Network, Images: nonNil(d.AllowedImages), Services: nonNil(d.AllowedServices),
		PullPolicies: nonNil(d.PullPolicies), Cache: d.CacheScope,
	}
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// grants lists what a rule changes.
func (p *Policy) grants(r *rule) []string {
	if r.Reject != "" {
		return []string{"reject"}
	}
	list := []string{}
	for _, dimension := range dimensions() {
		if dimension.compare(r.grant, p.base) != 0 {
			list = append(list, dimension.key+" "+dimension.show(r.grant))
		}
	}
	return list
}

// fact reads a fact for people. Variables may be secrets: of them only the number is told.
func (p *Policy) fact(vars *reader, name string) Fact {
	definition := p.table[name]
	_, known := vars.ResolveName(name)
	f := Fact{Name: name, Known: known, Provenance: definition.Provenance, Source: definition.Source()}
	if !known {
		return f
	}
	f.Value = definition.Read(vars.facts)
	if table, ok := f.Value.(map[string]string); ok {
		f.Value = fmt.Sprintf("%d variables, not shown", len(table))
	}
	return f
}
