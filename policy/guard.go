package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/common/ast"
)

// The guard rule: an expression that gives a job more than the default must demand, on every path that satisfies
// it, a fact that somebody vouches for. A leaf demands a fact when it says that a vouching fact *is* something: the fact
// alone, == with a constant, in a list of constants, startsWith. What it is not, or how it compares, is no demand: any
// stranger's job satisfies that. What is not understood demands nothing.

// newGuard looks for facts that may raise trust, by the table of package jobs.
func newGuard(facts map[string]FactDefinition) reasoning { return demanding(facts, vouches) }

// demanding looks for atoms that suffice: insufficient says why one does not, or nothing.
func demanding(facts map[string]FactDefinition, insufficient func(atom) string) reasoning {
	return reasoning{func(e ast.Expr, truth bool) *gap {
		a, found := newAtom(facts, e, truth)
		if found != nil {
			return found
		}
		if why := insufficient(a); why != "" {
			return &gap{e, why}
		}
		return nil
	}}
}

// vouches says why an atom does not demand a fact that may raise trust; nothing when it does.
func vouches(a atom) string {
	name := a.fact.Name
	switch {
	case a.fact.Provenance == Claimed:
		return decidedBy(name)
	case a.fact.Provenance != Attested:
		return "nobody vouches for " + name
	case a.fact.Trust.Raises == NoGrounds && a.fact.Trust.Because == "":
		return name + " is attested, but nobody has decided that it may raise trust"
	case a.fact.Trust.Raises == NoGrounds:
		return fmt.Sprintf("%s is attested, but %s", name, a.fact.Trust.Because)
	default:
		return statesNothing(a)
	}
}

// statesNothing says why an atom is so for strangers, too, whatever its fact is.
func statesNothing(a atom) string {
	switch {
	case a.isEmpty() && a.isPrefix:
		return "nothing is demanded of an empty or computed beginning"
	case a.isEmpty() && len(a.values) > 1:
		return "the list holds something that demands nothing"
	case a.isEmpty():
		return "nothing is demanded of an empty text"
	case !a.is:
		return fmt.Sprintf("it demands only what %s is not, which any other job satisfies", a.fact.Name)
	case a.isPrefix && a.fact.Trust.Raises != OfRunner && !isWholePath(a.prefix):
		return fmt.Sprintf("anybody can make a name that begins with %q; end it with a /", a.prefix)
	}
	return ""
}

// isWholePath reports whether a beginning is one of whole parts of a path: anybody can make a group whose name begins like
// another's. Behind two slashes, in id.ci_config_ref_uri, the project's path has ended.
func isWholePath(prefix string) bool {
	return strings.HasSuffix(prefix, "/") || strings.Contains(prefix, "//")
}
