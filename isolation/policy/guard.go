package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"

	"github.com/airlock-ci/airlock/jobs"
)

// The guard rule: an expression that gives a job more than the default must demand, on every path that satisfies
// it, a fact that somebody vouches for. With demands(e, t) for "whenever e is t, such a fact holds":
//
//	demands(a && b, true) = demands(a, true) or demands(b, true)
//	demands(a || b, true) = demands(a, true) and demands(b, true)
//	demands(!a, t)        = demands(a, not t)
//
// and so on for false and for conditions. An atom demands a fact when it says that a vouching fact *is* something:
// the fact alone, == with a constant, in a list of constants, startsWith. What it is not, or how it compares, is
// no demand: any stranger's job satisfies that. What is not understood demands nothing.
//
// An unknown fact cannot satisfy an atom, since reading it is an error.

// distrusted are the attested facts that demand nothing, and why: GitLab tells the truth about them, but the truth is
// what a job's author makes it, or the same for everybody.
func distrusted() map[string]string {
	const (
		everybody = "every job has one"
		pushed    = "whoever may push or open a merge request chooses it"
		person    = "a fork's merge request that a member runs carries the member's name and the fork's scripts"
		started   = "anybody can start a child pipeline, a push or a schedule"
	)
	return map[string]string{
		"job.id": everybody, "job.pipeline_id": everybody, "id.job_id": everybody, "id.pipeline_id": everybody,
		"job.timeout": "the job's author sets it", "job.policy_job": "such a job runs beside the author's files",
		"job.policy_name": "such a job runs beside the author's files",
		"job.user_id":     person, "id.user_id": person, "id.user_login": person, "id.user_access_level": person,
		"git.ref": pushed, "git.ref_type": pushed, "git.sha": pushed, "git.refspecs": pushed, "git.merge_request": pushed,
		"git.repo_url": "it says less than job.project_path",
		"id.ref":       pushed, "id.ref_type": pushed, "id.sha": pushed,
		"id.pipeline_source":    started,
		"id.environment":        "the job's author names it; id.environment_protected says whether it is protected",
		"id.project_visibility": "anybody can make such a project", "id.runner_id": "every job of the runner has it",
		"id.runner_environment": "every job of the runner has it",
	}
}

// gap is a sub-expression that a job's author alone could satisfy.
type gap struct {
	expr ast.Expr
	why  string
}

// guard analyses one checked expression.
type guard struct {
	facts      map[string]jobs.FactDefinition
	distrusted map[string]string
}

// gap returns nil when e cannot have the given truth value without a fact that somebody vouches for.
func (g *guard) gap(e ast.Expr, truth bool) *gap {
	switch e.Kind() {
	case ast.LiteralKind:
		if e.AsLiteral().Equal(types.Bool(!truth)) == types.True {
			return nil // it never has that value
		}
		return &gap{e, "it is always so"}
	case ast.CallKind:
		return g.call(e, truth)
	case ast.ComprehensionKind:
		return &gap{e, "a loop over nothing demands nothing; demand the fact outside of it"}
	default:
		return g.fact(e, e, truth)
	}
}

func (g *guard) call(e ast.Expr, truth bool) *gap {
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalNot:
		return g.gap(args[0], !truth)
	case operators.LogicalAnd:
		return g.junction(e, args, truth, truth)
	case operators.LogicalOr:
		return g.junction(e, args, truth, !truth)
	case operators.Conditional:
		return g.condition(args, truth)
	case operators.Equals:
		return g.equality(e, args, truth)
	case operators.NotEquals:
		return g.equality(e, args, !truth)
	case operators.In:
		return g.membership(e, args, truth)
	case overloads.StartsWith:
		return g.prefix(e, call, truth)
	case knownFunction:
		return &gap{e, "has() demands only that something is known"}
	default:
		return &gap{e, g.describe(e) + "; demand facts with ==, in or startsWith"}
	}
}

// junction takes a && b (or a || b) for the given truth. When all operands must have it, one that demands a fact is
// enough; when one operand may have it alone, each has to demand one.
func (g *guard) junction(e ast.Expr, args []ast.Expr, truth, all bool) *gap {
	var reasons []string
	for _, arg := range args {
		found := g.gap(arg, truth)
		switch {
		case found == nil && all:
			return nil
		case found != nil && !all:
			return found
		case found != nil:
			reasons = append(reasons, found.why)
		}
	}
	if !all {
		return nil
	}
	return &gap{e, strings.Join(unique(reasons), ", and ")}
}

// condition takes c ? a : b as (c && a) || (!c && b).
func (g *guard) condition(args []ast.Expr, truth bool) *gap {
	for i, chosen := range []bool{true, false} {
		if g.gap(args[0], chosen) == nil {
			continue
		}
		if found := g.gap(args[1+i], truth); found != nil {
			return found
		}
	}
	return nil
}

// equality takes a == b for the given truth.
func (g *guard) equality(e ast.Expr, args []ast.Expr, truth bool) *gap {
	other, constant := args[0], args[1]
	if other.Kind() == ast.LiteralKind {
		other, constant = constant, other
	}
	if constant.Kind() != ast.LiteralKind {
		return &gap{e, "it compares two things of which neither is a constant"}
	}
	if value, isTruth := constant.AsLiteral().(types.Bool); isTruth {
		return g.gap(other, bool(value) == truth)
	}
	if constant.AsLiteral().Equal(types.String("")) == types.True {
		return &gap{e, "nothing is demanded of an empty text"}
	}
	return g.fact(e, other, truth)
}

// membership takes a in [b, c] for the given truth.
func (g *guard) membership(e ast.Expr, args []ast.Expr, truth bool) *gap {
	if args[1].Kind() != ast.ListKind {
		return &gap{e, g.describe(e) + "; demand facts with ==, in [...] or startsWith"}
	}
	for _, item := range args[1].AsList().Elements() {
		if item.Kind() != ast.LiteralKind || isEmptyOrFalse(item.AsLiteral()) {
			return &gap{e, "the list holds something that demands nothing"}
		}
	}
	return g.fact(e, args[0], truth)
}

func isEmptyOrFalse(value ref.Val) bool {
	return value.Equal(types.String("")) == types.True || value.Equal(types.False) == types.True
}

// prefix takes fact.startsWith("prefix"). Of a path it must be whole parts: anybody can make a group whose name
// begins like another's.
func (g *guard) prefix(e ast.Expr, call ast.CallExpr, truth bool) *gap {
	args := call.Args()
	prefix := ""
	if len(args) == 1 && args[0].Kind() == ast.LiteralKind {
		prefix, _ = args[0].AsLiteral().Value().(string)
	}
	if !call.IsMemberFunction() || prefix == "" {
		return &gap{e, "nothing is demanded of an empty or computed beginning"}
	}
	name := ""
	if call.Target().Kind() == ast.IdentKind {
		name = call.Target().AsIdent()
	}
	switch {
	case name == "" || name == "runner.class":
	case !strings.HasSuffix(prefix, "/"):
		if found := g.fact(e, call.Target(), truth); found != nil {
			return found
		}
		return &gap{e, fmt.Sprintf("anybody can make a name that begins with %q; end it with a /", prefix)}
	case name == "id.ci_config_ref_uri" && strings.Count(prefix, "/") < 2: // it begins with GitLab's host
		return &gap{e, fmt.Sprintf("every project of that GitLab begins with %q; name a group, too", prefix)}
	}
	return g.fact(e, call.Target(), truth)
}

// fact takes an atom e that says something positive (truth) or negative about operand.
func (g *guard) fact(e, operand ast.Expr, truth bool) *gap {
	name := ""
	if operand.Kind() == ast.IdentKind {
		name = operand.AsIdent()
	}
	switch why, distrusted := g.distrusted[name]; {
	case g.facts[name].Provenance != jobs.Attested:
		return &gap{e, g.describe(e)}
	case distrusted:
		return &gap{e, fmt.Sprintf("%s is attested, but %s", name, why)}
	case !truth:
		return &gap{e, fmt.Sprintf("it demands only what %s is not, which any other job satisfies", name)}
	}
	return nil
}

// describe says who decides an expression that demands nothing.
func (g *guard) describe(e ast.Expr) string {
	var claims []string
	for _, name := range reads(e) {
		if g.facts[name].Provenance == jobs.Claimed {
			claims = append(claims, name)
		}
	}
	if len(claims) > 0 {
		return "the job's author decides " + strings.Join(claims, ", ")
	}
	return "it demands no fact that somebody vouches for"
}

// reads returns the names of the variables that an expression reads, each once, in their order.
func reads(e ast.Expr) []string {
	var names []string
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && strings.Contains(e.AsIdent(), ".") {
			names = append(names, e.AsIdent())
		}
	}))
	return unique(names)
}

func unique(list []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, item := range list {
		if !seen[item] {
			seen[item] = true
			out = append(out, item)
		}
	}
	return out
}

// text writes a sub-expression as the administrator would.
func text(e ast.Expr, info *ast.SourceInfo) string {
	written, err := parser.Unparse(e, info)
	if err != nil {
		return "(a part that cannot be written down)"
	}
	return written
}
