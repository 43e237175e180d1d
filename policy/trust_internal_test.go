package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAFactThatNobodyDecidedAboutRaisesNoTrust: a new row of the table is refused until its fields say otherwise.
func TestAFactThatNobodyDecidedAboutRaisesNoTrust(t *testing.T) {
	for why, fact := range map[string]FactDefinition{
		"nobody vouches for x.new": {},
		"x.new is attested, but nobody has decided that it may raise trust": {Provenance: Attested},
		"x.new is attested, but why":                                        {Provenance: Attested, Trust: Trust{Because: "why"}},
		"x.new is attested, but it narrows":                                 {Provenance: Attested, Trust: Trust{Because: "it narrows", Narrows: OfProject}},
		"the job's author decides x.new":                                    {Provenance: Claimed, Trust: Trust{Raises: OfProject}},
		"":                                                                  {Provenance: Attested, Trust: Trust{Raises: OfProject}},
	} {
		fact.Name, fact.Kind = "x.new", Truth
		env, err := newEnvironment([]FactDefinition{fact})
		require.NoError(t, err)
		checked, issues := env.Compile("x.new")
		require.NoError(t, issues.Err())
		found := newGuard(map[string]FactDefinition{"x.new": fact}).gap(checked.NativeRep().Expr(), true)
		if why == "" {
			require.Nil(t, found)
			continue
		}
		require.NotNil(t, found, why)
		require.Equal(t, why, found.why)
	}
}

// TestTheGuardFollowsTheTable: a positive statement about a fact is a demand exactly when the fact's row says so.
func TestTheGuardFollowsTheTable(t *testing.T) {
	facts := map[string]FactDefinition{}
	for _, fact := range FactTable() {
		facts[fact.Name] = fact
	}
	env, err := newEnvironment(FactTable())
	require.NoError(t, err)
	for name, fact := range facts {
		atom := map[Kind]string{
			Truth: name, Number: name + " == 1", Text: name + ` in ["x", "y"]`, Texts: name + ` == ["x"]`, Table: name + ` == {"x": "y"}`,
		}[fact.Kind]
		checked, issues := env.Compile(atom)
		require.NoError(t, issues.Err())
		found := newGuard(facts).gap(checked.NativeRep().Expr(), true)
		require.Equal(t, fact.Trust.Raises == NoGrounds, found != nil, name)
		require.NotNil(t, newGuard(facts).gap(checked.NativeRep().Expr(), false), "%s: what it is not", name)
	}
}
