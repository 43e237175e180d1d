package policy

import (
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
)

// gap is a sub-expression that can have its value without what is demanded.
type gap struct {
	expr ast.Expr
	why  string
}

// reasoning tells what an expression demands on every path that gives it a truth value. With demands(e, t) for
// "whenever e is t, what is looked for holds":
//
//	demands(a && b, true) = demands(a, true) or demands(b, true)
//	demands(a || b, true) = demands(a, true) and demands(b, true)
//	demands(!a, t)        = demands(a, not t)
//
// and so on for false and for conditions. What is looked for is the leaf's affair: the guard looks for facts that somebody
// vouches for, lint for one kind of them.
//
// An unknown fact cannot satisfy a leaf, since reading it is an error.
type reasoning struct {
	// leaf decides about what is none of the operators above: nil when it demands what is looked for.
	leaf func(e ast.Expr, truth bool) *gap
}

// gap returns nil when e cannot have the given truth value without what is looked for.
func (r reasoning) gap(e ast.Expr, truth bool) *gap {
	if e.Kind() == ast.LiteralKind {
		if e.AsLiteral().Equal(types.Bool(!truth)) == types.True {
			return nil // it never has that value
		}
		return &gap{e, "it is always so"}
	}
	if e.Kind() != ast.CallKind {
		return r.leaf(e, truth)
	}
	args := e.AsCall().Args()
	switch e.AsCall().FunctionName() {
	case operators.LogicalNot:
		return r.gap(args[0], !truth)
	case operators.LogicalAnd:
		return r.junction(e, args, truth, truth)
	case operators.LogicalOr:
		return r.junction(e, args, truth, !truth)
	case operators.Conditional:
		return r.condition(args, truth)
	}
	if operand, value, ok := comparedWithTruth(e); ok {
		return r.gap(operand, value == truth)
	}
	return r.leaf(e, truth)
}

// demands reports whether e is true only when what is looked for holds.
func (r reasoning) demands(e ast.Expr) bool { return r.gap(e, true) == nil }

// junction takes a && b (or a || b) for the given truth. When all operands must have it, one that demands it is
// enough; when one operand may have it alone, each has to demand it.
func (r reasoning) junction(e ast.Expr, args []ast.Expr, truth, all bool) *gap {
	var reasons []string
	for _, arg := range args {
		found := r.gap(arg, truth)
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
func (r reasoning) condition(args []ast.Expr, truth bool) *gap {
	for i, chosen := range []bool{true, false} {
		if r.gap(args[0], chosen) == nil {
			continue
		}
		if found := r.gap(args[1+i], truth); found != nil {
			return found
		}
	}
	return nil
}

// comparedWithTruth takes x == true, false != x, x in [true] and so on for x, and the value that x then has.
func comparedWithTruth(e ast.Expr) (operand ast.Expr, value, ok bool) {
	name, args := e.AsCall().FunctionName(), e.AsCall().Args()
	truth := func(e ast.Expr) (value, ok bool) {
		if e.Kind() != ast.LiteralKind {
			return false, false
		}
		v, ok := e.AsLiteral().(types.Bool)
		return bool(v), ok
	}
	switch name {
	case operators.Equals, operators.NotEquals:
		for i, arg := range args {
			if value, ok := truth(arg); ok {
				return args[1-i], value == (name == operators.Equals), true
			}
		}
	case operators.In:
		if args[1].Kind() != ast.ListKind || args[1].AsList().Size() != 1 {
			break
		}
		value, ok = truth(args[1].AsList().Elements()[0])
		return args[0], value, ok
	}
	return nil, false, false
}

// leaves are the parts of an expression that no reasoning looks into.
func leaves(e ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind {
		return []ast.Expr{e}
	}
	switch e.AsCall().FunctionName() {
	case operators.LogicalNot, operators.LogicalAnd, operators.LogicalOr, operators.Conditional:
		var all []ast.Expr
		for _, arg := range e.AsCall().Args() {
			all = append(all, leaves(arg)...)
		}
		return all
	}
	if operand, _, ok := comparedWithTruth(e); ok {
		return leaves(operand)
	}
	return []ast.Expr{e}
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
