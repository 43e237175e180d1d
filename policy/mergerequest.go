package policy

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/airlock-ci/airlock/gitlab"
)

// mergeRequests is where GitLab keeps the refs that it makes for merge requests.
const mergeRequests = "refs/merge-requests/"

// withoutMergeRequests looks for leaves that are not so for merge requests. A leaf about the ref alone is tried with the refs
// that merge requests have; beside it, atoms count that also accepts.
func (p *Policy) withoutMergeRequests(r *rule, also func(atom) string) reasoning {
	return reasoning{func(e ast.Expr, truth bool) *gap {
		a, found := newAtom(p.table, e, truth)
		switch {
		case found == nil && also != nil && also(a) == "":
			return nil
		case found == nil && namesBranchOrTag(a):
			return nil
		case p.everMergeRequest(e, r.tree.SourceInfo(), truth):
			return &gap{e, "a merge request may have it"}
		}
		return nil
	}}
}

// namesBranchOrTag reports whether an atom is about id.ci_config_ref_uri and demands a ref in it that is no merge request's.
func namesBranchOrTag(a atom) bool {
	names := func(text string) bool {
		return strings.Contains(text, "@refs/heads/") || strings.Contains(text, "@refs/tags/")
	}
	if a.fact.Name != "id.ci_config_ref_uri" || !a.is {
		return false
	}
	if a.isPrefix {
		return names(a.prefix)
	}
	return !slices.ContainsFunc(a.values, func(v ref.Val) bool {
		uri, ok := v.Value().(string)
		return !ok || !names(uri)
	})
}

// everMergeRequest reports whether a leaf may have a value for a merge request. In doubt, and when it asks for more than
// the ref, it may.
func (p *Policy) everMergeRequest(leaf ast.Expr, info *ast.SourceInfo, truth bool) bool {
	aboutRef := []string{"git.merge_request", "git.ref", "git.ref_type", "git.refspecs", "id.ref", "id.ref_type"}
	names := reads(leaf)
	if len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(aboutRef, name) }) {
		return true
	}
	checked, issues := p.env.Compile(text(leaf, info))
	if issues.Err() != nil {
		return true
	}
	program, err := p.env.Program(checked, cel.CostLimit(maxCost))
	if err != nil {
		return true
	}
	return slices.ContainsFunc(sampleMergeRequests(), func(facts Facts) bool {
		value, _, err := program.Eval(newReader(p.table, facts))
		return err == nil && value == types.Bool(truth)
	})
}

// sampleMergeRequests are jobs of merge requests, as GitLab describes them, and one that is not described. Their id tokens
// name another ref, and are therefore not believed; should one ever be, it would be by naming the same.
func sampleMergeRequests() []Facts {
	all := []Facts{{Job: &gitlab.JobResponse{ID: 1}}}
	for _, number := range []string{"1", "42", "1234", "98765"} {
		for _, kind := range []string{"head", "merge", "train"} {
			name, branch := fmt.Sprintf("%s%s/%s", mergeRequests, number, kind), "branch"
			job := &gitlab.JobResponse{ID: 1}
			job.GitInfo.Ref, job.GitInfo.RefType = &name, &branch
			job.GitInfo.Refspecs.Value = &[]string{"+" + name + ":" + name}
			all = append(all, Facts{Job: job, Identity: &Identity{Ref: &name, RefType: &branch}})
		}
	}
	return all
}
