package policy

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/jobs"
)

// TestAFactThatNobodyDecidedAboutRaisesNoTrust: a new row of the table is refused until its fields say otherwise.
func TestAFactThatNobodyDecidedAboutRaisesNoTrust(t *testing.T) {
	for why, fact := range map[string]jobs.FactDefinition{
		"nobody vouches for x.new": {},
		"x.new is attested, but nobody has decided that it may raise trust": {Provenance: jobs.Attested},
		"x.new is attested, but why":                                        {Provenance: jobs.Attested, Trust: jobs.Trust{Because: "why"}},
		"x.new is attested, but it narrows":                                 {Provenance: jobs.Attested, Trust: jobs.Trust{Because: "it narrows", Narrows: jobs.OfProject}},
		"the job's author decides x.new":                                    {Provenance: jobs.Claimed, Trust: jobs.Trust{Raises: jobs.OfProject}},
		"":                                                                  {Provenance: jobs.Attested, Trust: jobs.Trust{Raises: jobs.OfProject}},
	} {
		fact.Name, fact.Kind = "x.new", jobs.Truth
		env, err := newEnvironment([]jobs.FactDefinition{fact})
		require.NoError(t, err)
		checked, issues := env.Compile("x.new")
		require.NoError(t, issues.Err())
		found := newGuard(map[string]jobs.FactDefinition{"x.new": fact}).gap(checked.NativeRep().Expr(), true)
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
	facts := map[string]jobs.FactDefinition{}
	for _, fact := range jobs.FactTable() {
		facts[fact.Name] = fact
	}
	env, err := newEnvironment(jobs.FactTable())
	require.NoError(t, err)
	for name, fact := range facts {
		atom := map[jobs.Kind]string{
			jobs.Truth: name, jobs.Number: name + " == 1", jobs.Text: name + ` in ["x", "y"]`, jobs.Texts: name + ` == ["x"]`, jobs.Table: name + ` == {"x": "y"}`,
		}[fact.Kind]
		checked, issues := env.Compile(atom)
		require.NoError(t, issues.Err())
		found := newGuard(facts).gap(checked.NativeRep().Expr(), true)
		require.Equal(t, fact.Trust.Raises == jobs.NoGrounds, found != nil, name)
		require.NotNil(t, newGuard(facts).gap(checked.NativeRep().Expr(), false), "%s: what it is not", name)
	}
}
