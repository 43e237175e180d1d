package policy

import (
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// Bounds of one rule's expression.
const (
	maxExpression = 4096 // characters
	maxNodes      = 1000 // of the syntax tree
	maxDepth      = 60
	// maxEstimate is what an expression may cost for the most hostile job there can be, in CEL's units: some tens of
	// nanoseconds each. What costs more is a mistake that can be told when the policy is loaded.
	maxEstimate = 100_000_000
	// maxCost is where the evaluation for one job ends, in doubt.
	maxCost = 1_000_000
	// cheap is the worst cost up to which an evaluation need not be watched.
	cheap = 20_000
)

// knownFunction is what has() becomes: CEL's own has() knows fields of messages only.
const knownFunction = "known"

// newEnvironment returns the language of rules: CEL with the facts as its variables. An unknown fact has no value:
// reading it is an error, which no rule that gives more survives. has(fact) reports whether it is known.
func newEnvironment(facts []FactDefinition) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.StdLib(),
		cel.ClearMacros(),
		cel.Macros(cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro, cel.MapMacro, cel.FilterMacro,
			cel.GlobalMacro("has", 1, func(factory cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
				return factory.NewCall(knownFunction, args...), nil
			})),
		cel.Function(knownFunction, cel.Overload("has_fact", []*cel.Type{cel.DynType}, cel.BoolType,
			cel.OverloadIsNonStrict(), cel.UnaryBinding(isKnown))),
		cel.EnableMacroCallTracking(),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ExpressionNodeLimit(maxNodes),
		cel.ParserRecursionLimit(maxDepth),
	}
	for _, fact := range facts {
		options = append(options, cel.VariableWithDoc(fact.Name, celType(fact.Kind), fact.Meaning))
	}
	return cel.NewCustomEnv(options...)
}

func isKnown(value ref.Val) ref.Val { return types.Bool(!types.IsUnknownOrError(value)) }

func celType(kind Kind) *cel.Type {
	switch kind {
	case Truth:
		return cel.BoolType
	case Number:
		return cel.IntType
	case Texts:
		return cel.ListType(cel.StringType)
	case Table:
		return cel.MapType(cel.StringType, cel.StringType)
	default:
		return cel.StringType
	}
}

// sizes tells the cost estimator how large facts can be.
type sizes struct{}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (sizes) EstimateSize(element cost.AstNode) *cost.SizeEstimate {
	path := element.Path()
	if len(path) == 0 {
		return nil
	}
	switch last := path[len(path)-1]; {
	case last == "@values":
		return &cost.SizeEstimate{Max: MaxVariable}
	case path[0] == "claimed.variables" && len(path) == 1:
		return &cost.SizeEstimate{Max: MaxVariables}
	case element.Type().Kind() == types.ListKind:
		return &cost.SizeEstimate{Max: MaxTexts}
	default:
		return &cost.SizeEstimate{Max: MaxText}
	}
}

// program plans a checked expression. What may cost more than a little is watched while it runs.
func program(env *cel.Env, checked *cel.Ast) (cel.Program, error) {
	estimate, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, err
	}
	if estimate.Max > maxEstimate {
		return nil, fmt.Errorf("it may cost %d units for the most hostile job, which is more than %d", estimate.Max, maxEstimate)
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate.Max > cheap {
		options = append(options, cel.CostLimit(maxCost))
	}
	return env.Program(checked, options...)
}

// reader finds the facts of one job by name, each read once.
type reader struct {
	table map[string]FactDefinition
	facts Facts
	read  map[string]ref.Val // nil: unknown
}

var _ interpreter.Activation = (*reader)(nil)

func newReader(table map[string]FactDefinition, facts Facts) *reader {
	return &reader{table: table, facts: facts, read: make(map[string]ref.Val, 8)}
}

// ResolveName returns a fact's value, and false when it is unknown.
func (r *reader) ResolveName(name string) (any, bool) {
	value, done := r.read[name]
	if !done {
		if fact, ok := r.table[name]; ok {
			value = celValue(fact.Read(r.facts))
		}
		r.read[name] = value
	}
	return value, value != nil
}

// Parent returns nil: there is nothing but the facts.
func (r *reader) Parent() interpreter.Activation { return nil }

func celValue(value any) ref.Val {
	if value == nil {
		return nil
	}
	return types.DefaultTypeAdapter.NativeToValue(value)
}
