package policy

import (
	"fmt"
	"slices"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/airlock-ci/airlock/jobs"
)

// Lint returns what is worth a second look in a policy that is valid: rules that cannot matter, and trust that rests
// on less than it seems to.
func (p *Policy) Lint() []Problem {
	var found []Problem
	add := func(rule int, key, message, remedy string) {
		found = append(found, Problem{Rule: rule, Key: key, Message: message, Remedy: remedy})
	}
	for i, r := range p.rules {
		if earlier := slices.IndexFunc(p.rules[:i], (*rule).always); earlier >= 0 {
			add(i, "when", fmt.Sprintf("it is never reached: rule %q before it matches every job", p.rules[earlier].Name), "put it before that rule: the first match wins")
			continue
		}
		if r.Reject == "" && len(r.widens) == 0 && !narrows(r.grant, p.base) {
			add(i, "name", "it grants just what the default grants", "say what it changes, or keep it as an exception from later rules")
		}
		if p.escapable(i) {
			add(i, "when", "it is stricter by what the job's author writes, who can write something else and reach a later rule that gives more",
				"demand attested facts only, or put the rules that give more in one with this condition")
		}
		if p.gives(r) {
			p.lintTrust(i, add)
		}
	}
	return found
}

// always tells whether a rule matches every job.
func (r *rule) always() bool {
	e := r.tree.Expr()
	return e.Kind() == ast.LiteralKind && e.AsLiteral() == types.True
}

func (p *Policy) gives(r *rule) bool { return r.Reject == "" && r.grant.Level < p.base.Level }

// escapable tells whether an author avoids rule i by other claims, to end at a rule that gives more.
func (p *Policy) escapable(i int) bool {
	r := p.rules[i]
	if r.weakens || len(r.reads) == 0 {
		return false
	}
	for _, name := range r.reads {
		if p.table[name].Provenance == jobs.Attested {
			return false
		}
	}
	return slices.ContainsFunc(p.rules[i+1:], func(later *rule) bool { return len(later.widens) > 0 })
}

// lintTrust looks at what a rule that gives the weaker level rests on.
func (p *Policy) lintTrust(i int, add func(rule int, key, message, remedy string)) {
	r := p.rules[i]
	reads := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(r.reads, name) })
	}
	where := reads("job.project_id", "job.project_path", "job.namespace_id", "job.root_namespace_id", "job.organization_id",
		"id.project_id", "id.project_path", "id.namespace_id", "id.namespace_path", "id.ci_config_ref_uri")
	protected := reads("git.protected", "id.ref_protected", "id.environment_protected")
	switch class := reads("runner.class"); {
	case protected && !where && !class:
		add(i, "when", "everybody has protected branches in a project of their own, where a branch named * protects all",
			"unless this runner serves projects of yours only, demand job.project_path or job.root_namespace_id, too")
	case where && !protected && !class:
		add(i, "when", "a fork's merge request that a member runs in the project has the project's facts and the fork's scripts",
			"demand git.protected, too")
	}
	if protected && !reads("git.merge_request", "git.ref", "id.ref", "id.ci_config_ref_uri") {
		add(i, "when", "a merge request between protected branches is protected, too", "demand !git.merge_request as well")
	}
}
