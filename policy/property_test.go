package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// expression draws an expression of the given depth over few facts, by every operator that the guard analyses.
func expression(t *rapid.T, depth int) string {
	atoms := []string{
		`git.protected`, `id.ref_protected`, `runner.class == "protected"`, `runner.class in ["protected", "release"]`, `job.project_id == 42`,
		`job.project_path.startsWith("company/")`, `runner.class != "protected"`, `git.protected == false`, `git.protected != false`,
		`git.merge_request`, `git.ref == "main"`, `job.user_id == 5`, `has(git.protected)`, `has(claimed.variables.A)`,
		`claimed.image == "x"`, `claimed.stage != "y"`, `claimed.variables["A"] == "1"`, `"A" in claimed.variables`,
		`claimed.services.exists(s, s == "x")`, `claimed.services.all(s, git.protected)`, `runner.class in claimed.services`,
		`runner.class == claimed.image`, `runner.class in []`, `job.project_id > 41`, `true`, `false`,
		`job.organization_id == 1`, `job.instance_id == "inst"`, `id.environment_protected`, `id.project_visibility == "private"`,
		`id.ci_config_ref_uri.startsWith("gitlab.example.com/")`, `id.ci_config_ref_uri.endsWith("@refs/heads/main")`, `git.protected in [true]`,
		`"a" + "b" == "ab"`, `(job.project_path + "").startsWith("company")`,
	}
	if depth == 0 {
		return rapid.SampledFrom(atoms).Draw(t, "atom")
	}
	sub := func() string { return expression(t, depth-1) }
	switch rapid.SampledFrom([]string{"atom", "and", "or", "not", "if", "==", "!=", "is"}).Draw(t, "operator") {
	case "and":
		return "(" + sub() + " && " + sub() + ")"
	case "or":
		return "(" + sub() + " || " + sub() + ")"
	case "not":
		return "!(" + sub() + ")"
	case "if":
		return "(" + sub() + " ? " + sub() + " : " + sub() + ")"
	case "==":
		return "((" + sub() + ") == (" + sub() + "))"
	case "!=":
		return "((" + sub() + ") != (" + sub() + "))"
	case "is":
		return "((" + sub() + ") == " + rapid.SampledFrom([]string{"true", "false"}).Draw(t, "truth") + ")"
	default:
		return expression(t, 0)
	}
}

// strangers are all jobs of a small space for which nobody vouches: what is attested is unknown, false or another's,
// and what an author decides is anything.
func strangers() []policy.Facts {
	no := false
	another := int64(7)
	own := policy.Identity{
		RefProtected: &no, EnvironmentProtected: ptr(true), ProjectVisibility: ptr("private"),
		CIConfigRefURI: ptr("gitlab.example.com/stranger/x//.gitlab-ci.yml@refs/heads/main"),
	}
	var all []policy.Facts
	for _, protected := range []*bool{nil, &no} {
		for _, tokens := range []*policy.Identity{nil, &own} {
			for _, class := range []string{"", "untrusted"} {
				for _, project := range []*int64{nil, &another} {
					for _, ref := range []*string{nil, ptr("main"), ptr("refs/merge-requests/1/head")} {
						for claims := range 8 {
							job := &gitlab.JobResponse{ID: 1}
							job.GitInfo.Protected, job.GitInfo.Ref = protected, ref
							job.JobInfo.ProjectID, job.JobInfo.ProjectFullPath, job.JobInfo.UserID = project, ptr("company-evil/x"), ptr(int64(5))
							job.JobInfo.Stage = "y"
							job.JobInfo.OrganizationID.Value, job.JobInfo.InstanceID.Value = ptr(int64(1)), ptr("inst")
							if claims&1 != 0 {
								job.Image.Name, job.JobInfo.Stage = "x", "z"
							}
							if claims&2 != 0 {
								job.Variables = []gitlab.Variable{{Key: "A", Value: "1"}}
							}
							if claims&4 != 0 {
								job.Image.Name = "untrusted"
								job.Services = []gitlab.Image{{Name: "x"}, {Name: "untrusted"}}
							}
							all = append(all, policy.Facts{Job: job, RunnerClass: class, Identity: tokens})
						}
					}
				}
			}
		}
	}
	return all
}

// TestNoStrangerSatisfiesAGuardedRule compares the guard's verdict with brute force: an expression that it accepts is
// false, or an error, for every job for which nobody vouches.
func TestNoStrangerSatisfiesAGuardedRule(t *testing.T) {
	all := strangers()
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		when := expression(t, 3)
		p, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{weakening(when)}})
		if len(problems) > 0 {
			if !strings.Contains(problems[0].Message, "a job's author alone") {
				t.Fatalf("%s: %v", when, problems)
			}
			refused++
			return
		}
		accepted++
		for _, facts := range all {
			d, err := p.Decide(nil, facts) //nolint:staticcheck // a policy needs no context
			if err != nil || d.Level != isolation.HypervisorLevel {
				t.Fatalf("%s: level %s, %v, for %+v", when, d.Level, err, facts)
			}
		}
	})
	require.Positive(t, accepted)
	require.Positive(t, refused)
}

// TestAVoucherIsEnough is the other half: the guard is of use, since it accepts what people write.
func TestAVoucherIsEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		when := "git.protected && (" + expression(t, 2) + ")"
		_, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{weakening(when)}})
		if len(problems) > 0 {
			t.Fatalf("%s: %v", when, problems)
		}
	})
}

// rules draws a policy of a few rules that compiles.
func rules(t *rapid.T) []policy.Rule {
	var list []policy.Rule
	for i := range rapid.IntRange(1, 5).Draw(t, "rules") {
		r := policy.Rule{Name: fmt.Sprintf("r%d", i), When: expression(t, 2)}
		switch rapid.SampledFrom([]string{"weaker", "stronger", "wider", "narrower", "mixed", "reject", "nothing"}).Draw(t, "kind") {
		case "weaker":
			r.Isolation = ptr(isolation.ProcessLevel)
		case "stronger":
			r.Isolation = ptr(isolation.HypervisorLevel)
		case "wider":
			r.Memory = ptr(int64(64 << 30))
		case "narrower":
			r.Network = ptr("none")
		case "mixed":
			r.Isolation, r.Network = ptr(isolation.ProcessLevel), ptr("none")
		case "reject":
			r.Reject = "no"
		}
		if _, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{r}}); len(problems) > 0 {
			r.When = "git.protected && (" + r.When + ")"
		}
		list = append(list, r)
	}
	return list
}

// TestNoStrangerGetsMoreThanTheDefault holds for whole policies: whatever their rules say and in whatever order, a job
// for which nobody vouches gets nothing beyond the default, and a wish for more isolation is heeded.
func TestNoStrangerGetsMoreThanTheDefault(t *testing.T) {
	all := strangers()
	rapid.Check(t, func(t *rapid.T) {
		p, problems := policy.Compile(policy.Source{Default: base(), Rules: rules(t)})
		if len(problems) > 0 {
			t.Fatalf("%v", problems)
		}
		facts := rapid.SampledFrom(all).Draw(t, "stranger")
		d, err := p.Decide(nil, facts) //nolint:staticcheck // a policy needs no context
		if err != nil {
			return
		}
		if d.Level != isolation.HypervisorLevel || d.Limits.Memory > base().Limits.Memory {
			t.Fatalf("%+v", d)
		}
	})
}

// TestAWishNeverWeakens: adding the variable, with whatever value, never lowers the level.
func TestAWishNeverWeakens(t *testing.T) {
	yes := true
	rapid.Check(t, func(t *rapid.T) {
		p, problems := policy.Compile(policy.Source{Default: base(), Rules: rules(t)})
		if len(problems) > 0 {
			t.Fatalf("%v", problems)
		}
		job := gitlab.JobResponse{ID: 1, GitInfo: gitlab.GitInfo{Protected: &yes, Ref: ptr("main")}}
		without, errWithout := p.Decide(nil, policy.Facts{Job: &job, RunnerClass: "protected"}) //nolint:staticcheck // a policy needs no context
		wishful := job
		wishful.Variables = []gitlab.Variable{{Key: policy.WishVariable, Value: gitlab.Secret(rapid.SampledFrom([]string{"", "process", "hypervisor", "HYPERVISOR ", "x"}).Draw(t, "wish"))}}
		with, err := p.Decide(nil, policy.Facts{Job: &wishful, RunnerClass: "protected"}) //nolint:staticcheck // a policy needs no context
		if errWithout == nil && err == nil && with.Level < without.Level {
			t.Fatalf("%s became %s", without.Level, with.Level)
		}
	})
}

// FuzzCompile: whatever stands in a rule, it compiles or is refused with a place inside of it; and what compiles gives
// no stranger the weaker level.
func FuzzCompile(f *testing.F) {
	for _, when := range []string{
		`git.protected && claimed.image == "x"`, `git.protected || claimed.variables["A"] == "1"`, `!(git.ref in ["a"]) ? true : id.ref_protected`,
		`claimed.services.exists(s, s.startsWith("x")) && runner.class == "protected"`, `has(git.protected)`, `[1, 2].all(x, x > 0)`,
		`job.project_path.startsWith("company/")`, `dyn(git.protected) == dyn(1)`, `{"a": git.protected}.a`, `type(git.protected) == bool`,
	} {
		f.Add(when)
	}
	all := strangers()
	f.Fuzz(func(t *testing.T, when string) {
		p, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{weakening(when)}})
		if p == nil {
			require.NotEmpty(t, problems)
			for _, problem := range problems {
				require.True(t, problem.Offset >= 0 && problem.Offset <= len(when), "%+v", problem)
				require.NotEmpty(t, problem.Message)
				require.NotEmpty(t, problem.Remedy)
			}
			return
		}
		for _, facts := range all {
			d, err := p.Decide(t.Context(), facts)
			require.NoError(t, err)
			require.Equal(t, isolation.HypervisorLevel, d.Level, "%+v", facts)
		}
	})
}
