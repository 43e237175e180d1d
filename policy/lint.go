package policy

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// Lint returns what is worth a second look in a policy that is valid: rules that cannot matter, and trust that rests
// on less than it seems to. It looks at what a rule demands on every path that satisfies it, with the guard's reasoning;
// that a rule reads a fact says nothing.
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
		if chosen, gives := p.escape(i); chosen != "" {
			add(i, "when", fmt.Sprintf("it is stricter by what the job's author writes (%s), who can write something else and get more from %s", chosen, gives),
				"demand facts that no author chooses, as in !git.protected, or put the rules that give more in one with this condition")
		} else if earlier, chosen := p.bypass(i); earlier != nil {
			add(i, "when", fmt.Sprintf("rule %q before it gives more, and the job's author can satisfy that by what he writes (%s) and so avoid this one", earlier.Name, chosen),
				"put it before that rule: the first match wins")
		}
		if p.gives(r) {
			p.lintTrust(i, add)
		}
	}
	return found
}

// always reports whether a rule matches every job.
func (r *rule) always() bool {
	e := r.tree.Expr()
	return e.Kind() == ast.LiteralKind && e.AsLiteral() == types.True
}

func (p *Policy) gives(r *rule) bool { return r.Reject == "" && r.grant.Level < p.base.Level }

// escape reports whether an author avoids rule i by another choice, to get more from a later rule or the default: by which
// facts, and from what. It need not be kept from those who may push to protected refs: neither when they alone can avoid
// it, by a fact that somebody vouches for, nor when it is for them alone.
func (p *Policy) escape(i int) (chosen, gives string) {
	r, e := p.rules[i], p.rules[i].tree.Expr()
	if r.weakens || newGuard(p.table).gap(e, false) == nil || p.rests(e, OfProtection) {
		return "", ""
	}
	if chosen = strings.Join(p.chosen(r), ", "); chosen == "" {
		return "", ""
	}
	more := func(g Grant) bool { return r.Reject != "" || len(widened(g, r.grant)) > 0 }
	for _, later := range p.rules[i+1:] {
		if later.Reject == "" && more(later.grant) {
			return chosen, fmt.Sprintf("rule %q", later.Name)
		}
		if later.always() {
			return "", ""
		}
	}
	if more(p.base) {
		return chosen, "the default"
	}
	return "", ""
}

// bypass finds a rule before rule i that an author satisfies by a choice, and that gives more: which, and by which facts. That
// all is rejected which no rule before allows is no bypass.
func (p *Policy) bypass(i int) (earlier *rule, chosen string) {
	r := p.rules[i]
	if r.weakens || r.Reject != "" && r.always() {
		return nil, ""
	}
	for _, earlier := range p.rules[:i] {
		gives := earlier.Reject == "" && (r.Reject != "" || len(widened(earlier.grant, r.grant)) > 0)
		if !gives || newGuard(p.table).demands(earlier.tree.Expr()) {
			continue
		}
		if chosen = strings.Join(p.chosen(earlier), ", "); chosen != "" {
			return earlier, chosen
		}
	}
	return nil, ""
}

// chosen returns the facts that a rule's condition turns on and whose value the job's author chooses. A ref below
// refs/merge-requests/ is none: only GitLab makes those.
func (p *Policy) chosen(r *rule) []string {
	var names []string
	for _, leaf := range leaves(r.tree.Expr()) {
		if a, found := newAtom(p.table, leaf, true); found == nil && a.isPrefix && strings.HasPrefix(a.prefix, mergeRequests) {
			continue
		}
		for _, name := range reads(leaf) {
			if p.table[name].Trust.Chosen {
				names = append(names, name)
			}
		}
	}
	return unique(names)
}

// lintTrust looks at what a rule that gives the weaker level rests on.
func (p *Policy) lintTrust(i int, add func(rule int, key, message, remedy string)) {
	e := p.rules[i].tree.Expr()
	if !p.rests(e, OfProject, OfRunner) {
		add(i, "when", "everybody has protected branches in a project of their own, where a branch named * protects all",
			"unless this runner serves projects of yours only, demand job.project_path or job.root_namespace_id, too")
	}
	if !p.rests(e, OfProtection, OfRunner) {
		add(i, "when", "a fork's merge request that a member runs in the project has the project's facts and the fork's scripts",
			"demand git.protected, too")
		return
	}
	// What the administrator says of a runner is enough by itself; a rule that asks GitLab for protection has to ask
	// for all of it.
	byRunner := restsOn(OfRunner)
	if p.rests(e, OfProtection) {
		byRunner = nil
	}
	if !p.withoutMergeRequests(p.rules[i], byRunner).demands(e) {
		add(i, "when", "a merge request between protected branches is protected, too", "demand !git.merge_request as well")
	}
}

// rests reports whether an expression demands, on every path, a fact with one of some grounds.
func (p *Policy) rests(e ast.Expr, grounds ...Grounds) bool {
	return demanding(p.table, restsOn(grounds...)).demands(e)
}

// restsOn looks for demands of facts with one of some grounds. Beside a demand that raises trust, which the guard has made
// sure of, those count that narrow.
func restsOn(grounds ...Grounds) func(atom) string {
	return func(a atom) string {
		trust := a.fact.Trust
		switch {
		case !slices.Contains(grounds, trust.Raises) && !slices.Contains(grounds, trust.Narrows):
			return a.fact.Name + " is not what is looked for"
		case trust.Raises == NoGrounds && a.isPrefix && strings.Count(a.prefix, "/") < 2: // it begins with GitLab's host
			return fmt.Sprintf("every project of that GitLab begins with %q", a.prefix)
		}
		return statesNothing(a)
	}
}
