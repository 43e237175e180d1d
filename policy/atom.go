package policy

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// atom is what a leaf says about one fact: that it is one of some constants, or begins with one.
type atom struct {
	fact FactDefinition
	// is is false when it says what the fact is not.
	is bool
	// values are what the fact is said to be; unused when isPrefix.
	values   []ref.Val
	isPrefix bool
	prefix   string
}

// isEmpty reports whether the atom says nothing when it is so: of a text that it is empty or begins with nothing, of a
// truth that it is false.
func (a atom) isEmpty() bool {
	return a.isPrefix && a.prefix == "" || slices.ContainsFunc(a.values, func(v ref.Val) bool {
		return v.Equal(types.String("")) == types.True || v.Equal(types.False) == types.True
	})
}

// newAtom takes a leaf apart. What is no statement about a fact is a gap.
func newAtom(facts map[string]FactDefinition, e ast.Expr, truth bool) (atom, *gap) {
	a, operand, found := atom{is: truth}, e, (*gap)(nil)
	switch e.Kind() {
	case ast.ComprehensionKind:
		return a, &gap{e, "a loop over nothing demands nothing; demand the fact outside of it"}
	case ast.CallKind:
		operand, found = a.call(facts, e)
	default: // a fact that is true or false
		a.values = []ref.Val{types.True}
	}
	if found != nil {
		return a, found
	}
	name := ""
	if operand.Kind() == ast.IdentKind {
		name = operand.AsIdent()
	}
	fact, ok := facts[name]
	if !ok {
		return a, &gap{e, describe(facts, e)}
	}
	a.fact = fact
	return a, nil
}

// call reads ==, !=, in and startsWith, and returns the operand that they are about.
func (a *atom) call(facts map[string]FactDefinition, e ast.Expr) (ast.Expr, *gap) {
	call := e.AsCall()
	switch name := call.FunctionName(); name {
	case operators.Equals, operators.NotEquals:
		a.is = a.is == (name == operators.Equals)
		return a.equality(e, call.Args())
	case operators.In:
		return a.membership(facts, e, call.Args())
	case overloads.StartsWith:
		return a.beginning(e, call)
	case knownFunction:
		return nil, &gap{e, "has() demands only that something is known"}
	default:
		return nil, &gap{e, describe(facts, e) + "; demand facts with ==, in or startsWith"}
	}
}

func (a *atom) equality(e ast.Expr, args []ast.Expr) (ast.Expr, *gap) {
	other, constant := args[0], args[1]
	if other.Kind() == ast.LiteralKind {
		other, constant = constant, other
	}
	if constant.Kind() != ast.LiteralKind {
		return nil, &gap{e, "it compares two things of which neither is a constant"}
	}
	a.values = []ref.Val{constant.AsLiteral()}
	return other, nil
}

func (a *atom) membership(facts map[string]FactDefinition, e ast.Expr, args []ast.Expr) (ast.Expr, *gap) {
	if args[1].Kind() != ast.ListKind {
		return nil, &gap{e, describe(facts, e) + "; demand facts with ==, in [...] or startsWith"}
	}
	for _, item := range args[1].AsList().Elements() {
		if item.Kind() != ast.LiteralKind {
			return nil, &gap{e, "the list holds something that demands nothing"}
		}
		a.values = append(a.values, item.AsLiteral())
	}
	return args[0], nil
}

func (a *atom) beginning(e ast.Expr, call ast.CallExpr) (ast.Expr, *gap) {
	args := call.Args()
	if !call.IsMemberFunction() || len(args) != 1 || args[0].Kind() != ast.LiteralKind {
		return nil, &gap{e, "nothing is demanded of an empty or computed beginning"}
	}
	a.isPrefix = true
	a.prefix, _ = args[0].AsLiteral().Value().(string)
	return call.Target(), nil
}

// describe says who decides an expression that demands nothing.
func describe(facts map[string]FactDefinition, e ast.Expr) string {
	var claims []string
	for _, name := range reads(e) {
		if facts[name].Provenance == Claimed {
			claims = append(claims, name)
		}
	}
	if len(claims) > 0 {
		return decidedBy(claims...)
	}
	return "it demands no fact that somebody vouches for"
}

func decidedBy(claims ...string) string {
	return fmt.Sprintf("the job's author decides %s", strings.Join(claims, ", "))
}
