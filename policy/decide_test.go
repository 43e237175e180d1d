package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// job parses a job response.
func job(t testing.TB, response string) policy.Facts {
	t.Helper()
	parsed, err := gitlab.ParseJobResponse([]byte(response))
	require.NoError(t, err)
	return policy.Facts{Job: parsed}
}

const (
	honest   = `{"id":1,"job_info":{"project_path":"g/p","project_id":42},"git_info":{"protected":true,"ref":"main","refspecs":["+refs/heads/main:x"]}}`
	stranger = `{"id":1,"git_info":{"protected":false,"ref":"refs/merge-requests/1/head"}}`
	unknown  = `{"id":1}`
)

func TestDecide(t *testing.T) {
	trusted := weakening(`git.protected && !git.merge_request`)
	onClaims := policy.Rule{Name: "claims", When: `claimed.variables["A"] == "1"`, Memory: ptr(int64(1 << 30))}
	for _, c := range []struct {
		name   string
		rules  []policy.Rule
		facts  policy.Facts
		level  isolation.Level
		rule   string
		reason string
		doubts []string
		notes  []string
	}{
		{"no rules", nil, job(t, honest), isolation.HypervisorLevel, "default", "no rule of the policy matched (sha256:", nil, nil},
		{"a match", []policy.Rule{trusted}, job(t, honest), isolation.ProcessLevel, "weaker", `rule "weaker" of the policy matched (sha256:`, nil, nil},
		{"no match", []policy.Rule{trusted}, job(t, stranger), isolation.HypervisorLevel, "default", "no rule", nil, nil},
		{"an unknown fact weakens nothing", []policy.Rule{trusted}, job(t, unknown), isolation.HypervisorLevel, "default", "no rule",
			[]string{`rule "weaker" gives nothing: git.protected is unknown`}, nil},
		{"null is unknown", []policy.Rule{trusted}, job(t, `{"id":1,"git_info":{"protected":null,"ref":"main"}}`), isolation.HypervisorLevel, "default", "no rule",
			[]string{`rule "weaker" gives nothing: git.protected is unknown`}, nil},
		{"the first match wins", []policy.Rule{{Name: "first", When: `git.ref == "main"`, Network: ptr("none")}, trusted}, job(t, honest),
			isolation.HypervisorLevel, "first", `rule "first"`, nil, nil},
		{"doubt about a strict rule decides", []policy.Rule{{Name: "strict", When: `git.merge_request`, Network: ptr("none")}, weakening(`runner.class == "protected"`)},
			func() policy.Facts { f := job(t, unknown); f.RunnerClass = "protected"; return f }(), isolation.HypervisorLevel, "strict",
			`rule "strict" of the policy is in doubt (git.merge_request is unknown), and doubt counts against a job`,
			[]string{`rule "strict" counts as matched: git.merge_request is unknown`}, nil},
		{"doubt about a rule that is weaker in one dimension and stricter in another", []policy.Rule{{Name: "mixed", When: `git.protected`, Isolation: ptr(isolation.ProcessLevel), Network: ptr("none")}},
			job(t, unknown), isolation.HypervisorLevel, "default", "no rule", []string{`rule "mixed" gives nothing: git.protected is unknown`}, nil},
		{"doubt about a rule without effect ends at the default", []policy.Rule{{Name: "nothing", When: `git.protected`}, weakening(`runner.class == "protected"`)},
			func() policy.Facts { f := job(t, unknown); f.RunnerClass = "protected"; return f }(), isolation.HypervisorLevel, "nothing", "is in doubt",
			[]string{`rule "nothing" counts as matched: git.protected is unknown`}, nil},
		{"a missing variable", []policy.Rule{onClaims}, job(t, honest), isolation.HypervisorLevel, "claims", "is in doubt (a key of claimed.variables is not there)",
			[]string{`rule "claims" counts as matched: a key of claimed.variables is not there`}, nil},
		{"an index", []policy.Rule{{Name: "index", When: `claimed.services[3] == "x"`, Memory: ptr(int64(1 << 30))}}, job(t, honest),
			isolation.HypervisorLevel, "index", "a list is shorter than it expects", []string{`rule "index" counts as matched: a list is shorter than it expects`}, nil},
		{"a division", []policy.Rule{{Name: "division", When: `1 / (job.id - 1) == 1`, Memory: ptr(int64(1 << 30))}}, job(t, honest),
			isolation.HypervisorLevel, "division", "its value is an error", []string{`rule "division" counts as matched: its value is an error`}, nil},
		{"a costly claim", []policy.Rule{{Name: "costly", When: `claimed.services.exists(a, claimed.services.exists(b, a == b + "x"))`, Memory: ptr(int64(1 << 30))}},
			job(t, `{"id":1,"services":[`+strings.Repeat(`{"name":"`+strings.Repeat("y", 4000)+`"},`, 200)+`{"name":"z"}]}`),
			isolation.HypervisorLevel, "costly", "it grew too costly", []string{`rule "costly" counts as matched: it grew too costly`}, nil},
		{"a wish for more", []policy.Rule{trusted}, job(t, strings.Replace(honest, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"hypervisor"}]`, 1)),
			isolation.HypervisorLevel, "weaker", "the job asked for it with AIRLOCK_ISOLATION; else rule", nil, nil},
		{"a wish for more, overridden", []policy.Rule{trusted}, job(t, strings.Replace(honest, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"hypervisor"},{"key":"AIRLOCK_ISOLATION","value":""}]`, 1)),
			isolation.HypervisorLevel, "weaker", "the job asked for it", nil, nil},
		{"a wish that nobody understands", []policy.Rule{trusted}, job(t, strings.Replace(honest, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"vm"}]`, 1)),
			isolation.HypervisorLevel, "weaker", "the job asked for it", nil, nil},
		{"a wish for less", []policy.Rule{trusted}, job(t, strings.Replace(stranger, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"process"}]`, 1)),
			isolation.HypervisorLevel, "default", "no rule", nil, []string{"AIRLOCK_ISOLATION can only ask for more isolation: process is ignored"}},
		{"a wish for what it has", []policy.Rule{trusted}, job(t, strings.Replace(honest, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"process"}]`, 1)),
			isolation.ProcessLevel, "weaker", `rule "weaker"`, nil, nil},
		{"a wish for what it has, hypervisor", nil, job(t, strings.Replace(stranger, `{"id":1`, `{"id":1,"variables":[{"key":"AIRLOCK_ISOLATION","value":"hypervisor"}]`, 1)),
			isolation.HypervisorLevel, "default", `no rule of the policy matched`, nil, nil},
		{"a bad id token", nil, policy.Facts{Job: &gitlab.JobResponse{ID: 1}, IdentityProblem: "it has expired"}, isolation.HypervisorLevel, "default", "no rule", nil,
			[]string{"the job's id token is not believed, its facts are unknown: it has expired"}},
		{"a good id token", []policy.Rule{weakening(`id.ref_protected && id.project_id == 42`)},
			policy.Facts{Job: &gitlab.JobResponse{ID: 1}, Identity: &policy.Identity{RefProtected: ptr(true), ProjectID: ptr(int64(42))}},
			isolation.ProcessLevel, "weaker", `rule "weaker"`, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := compile(t, c.rules...)
			d, err := p.Decide(t.Context(), c.facts)
			require.NoError(t, err)
			require.Equal(t, c.level, d.Level)
			require.Equal(t, c.rule, d.Rule)
			require.Equal(t, p.Digest(), d.Policy)
			require.Contains(t, d.Reason, c.reason)
			require.Equal(t, c.doubts, d.Doubts)
			require.Equal(t, c.notes, d.Notes)
		})
	}
}

func TestEverythingThatARuleGrants(t *testing.T) {
	p := compile(t, policy.Rule{
		Name: "all", When: `git.protected`, Isolation: ptr(isolation.ProcessLevel), Memory: ptr(int64(8 << 30)), CPUs: ptr(4.0), PIDs: ptr(int64(100)),
		Scratch: ptr(int64(1 << 30)), Timeout: ptr(time.Hour), Network: ptr("none"), CacheScope: ptr("job"),
		Images: []string{"debian:*"}, Services: []string{"postgres:*"}, PullPolicies: []string{"always"},
	})
	d, err := p.Decide(t.Context(), job(t, honest))
	require.NoError(t, err)
	require.Equal(t, policy.Decision{
		Level: isolation.ProcessLevel, Rule: "all", Policy: p.Digest(), Reason: d.Reason,
		Limits:  isolation.Limits{Memory: 8 << 30, CPUs: 4, PIDs: 100, Scratch: 1 << 30},
		Timeout: time.Hour, Network: "none", AllowedImages: []string{"debian:*"}, AllowedServices: []string{"postgres:*"},
		PullPolicies: []string{"always"}, CacheScope: "job",
	}, d)
}

// TestInDoubtAMixedRuleGivesNothing has a rule with a stronger level that goes beyond the default in all other dimensions
// but one.
func TestInDoubtAMixedRuleGivesNothing(t *testing.T) {
	narrow := policy.Grant{
		Level: isolation.ProcessLevel, Limits: isolation.Limits{Memory: 4 << 30, CPUs: 1, PIDs: 100, Scratch: 1 << 30}, Timeout: time.Minute,
		Network: "none", Images: []string{"debian:*"}, Services: []string{"postgres:*"}, PullPolicies: []string{"always"}, CacheScope: "job",
	}
	wide := policy.Rule{
		Name: "mixed", When: `git.protected`, Isolation: ptr(isolation.HypervisorLevel), Memory: ptr(int64(1 << 30)), CPUs: ptr(0.0), PIDs: ptr(int64(0)),
		Scratch: ptr(int64(2 << 30)), Timeout: ptr(time.Hour), Network: ptr("nat"), Images: []string{"**"}, Services: []string{"**"},
		PullPolicies: []string{"always", "never"}, CacheScope: ptr("project"),
	}
	p, problems := policy.Compile(policy.Source{Default: narrow, Rules: []policy.Rule{wide}})
	require.Empty(t, problems)
	e := p.Explain(job(t, honest))
	require.Equal(t, &policy.Outcome{
		Isolation: "hypervisor", Memory: 1 << 30, Scratch: 2 << 30, Timeout: 3600, Network: "nat", Images: []string{"**"}, Services: []string{"**"},
		PullPolicies: []string{"always", "never"}, Cache: "project",
	}, e.Decision)
	e = p.Explain(job(t, unknown))
	require.Equal(t, &policy.Outcome{
		Isolation: "hypervisor", Memory: 1 << 30, CPUs: 1, PIDs: 100, Scratch: 1 << 30, Timeout: 60, Network: "none", Images: []string{"debian:*"},
		Services: []string{"postgres:*"}, PullPolicies: []string{"always"}, Cache: "job",
	}, e.Decision, "where it is stricter, it holds")
}

func TestReject(t *testing.T) {
	p := compile(t, policy.Rule{Name: "no-forks", When: `git.merge_request`, Reject: "merge requests of forks run elsewhere"}, weakening(`git.protected`))
	for name, response := range map[string]string{"a match": stranger, "in doubt": unknown} {
		t.Run(name, func(t *testing.T) {
			d, err := p.Decide(t.Context(), job(t, response))
			require.ErrorContains(t, err, `this runner's policy refuses the job: merge requests of forks run elsewhere (rule "no-forks" of the policy sha256:`)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
			require.Equal(t, "no-forks", d.Rule)
			require.Equal(t, p.Digest(), d.Policy)
		})
	}
	d, err := p.Decide(t.Context(), job(t, honest))
	require.NoError(t, err)
	require.Equal(t, "weaker", d.Rule)
}

func TestAdministratorsAreAskedNoRules(t *testing.T) {
	p := compile(t, policy.Rule{Name: "none", When: "true", Reject: "nobody"})
	d, err := p.Decide(t.Context(), policy.Facts{Administrator: true, Requested: isolation.ProcessLevel, Job: &gitlab.JobResponse{}})
	require.NoError(t, err)
	require.Equal(t, isolation.ProcessLevel, d.Level)
}

// TestWhatNeedsAGuard has a rule for each dimension: what goes beyond the default on a claim alone is refused, what is
// stricter or the same is not.
func TestWhatNeedsAGuard(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   policy.Rule
		grants string // empty: needs none
	}{
		{"a weaker level", policy.Rule{Isolation: ptr(isolation.ProcessLevel)}, "isolation process instead of hypervisor"},
		{"the same level", policy.Rule{Isolation: ptr(isolation.HypervisorLevel)}, ""},
		{"more memory", policy.Rule{Memory: ptr(int64(5 << 30))}, "limits.memory 5 GiB instead of 4 GiB"},
		{"less memory", policy.Rule{Memory: ptr(int64(3 << 30))}, ""},
		{"more cores", policy.Rule{CPUs: ptr(2.5)}, "limits.cpus 2.5 instead of 2"},
		{"all cores", policy.Rule{CPUs: ptr(0.0)}, "limits.cpus no limit instead of 2"},
		{"fewer cores", policy.Rule{CPUs: ptr(0.5)}, ""},
		{"more processes", policy.Rule{PIDs: ptr(int64(5000))}, "limits.pids 5000 instead of 4096"},
		{"more disk", policy.Rule{Scratch: ptr(int64(21 << 30))}, "limits.scratch 21 GiB instead of 20 GiB"},
		{"a time-out", policy.Rule{Timeout: ptr(time.Minute)}, ""},
		{"no network", policy.Rule{Network: ptr("none")}, ""},
		{"an unknown network", policy.Rule{Network: ptr("host")}, "network host instead of nat"},
		{"other images", policy.Rule{Images: []string{"debian:*"}}, "images debian:* instead of registry.example.com/**, !**/*:latest"},
		{"fewer images", policy.Rule{Images: []string{"registry.example.com/**", "!**/*:latest", "!**/secret"}}, ""},
		{"the same images, no longer forbidden", policy.Rule{Images: []string{"registry.example.com/**"}}, "images"},
		{"all images but some", policy.Rule{Images: []string{"!**/*:latest"}}, "images"},
		{"a list of services", policy.Rule{Services: []string{"postgres:*"}}, ""},
		{"another pull policy", policy.Rule{PullPolicies: []string{"never"}}, "pull_policies never instead of if-not-present, always"},
		{"fewer pull policies", policy.Rule{PullPolicies: []string{"always"}}, ""},
		{"a cache of its own", policy.Rule{CacheScope: ptr("job")}, ""},
		{"a refusal", policy.Rule{Reject: "no"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rule.Name, c.rule.When = "r", `claimed.image == "x"`
			_, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{c.rule}})
			if c.grants == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			require.Contains(t, problems[0].Message, "grants "+c.grants)
			c.rule.When = `git.protected && claimed.image == "x"`
			require.NotNil(t, compile(t, c.rule))
		})
	}
	narrow := base()
	narrow.Network, narrow.CacheScope, narrow.Timeout, narrow.Services = "none", "job", time.Minute, []string{"postgres:*"}
	for grants, r := range map[string]policy.Rule{
		"network nat instead of none": {Network: ptr("nat")}, "cache project instead of job": {CacheScope: ptr("project")},
		"limits.timeout 1h0m0s instead of 1m0s": {Timeout: ptr(time.Hour)}, "services redis instead of postgres:*": {Services: []string{"redis"}},
	} {
		r.Name, r.When = "r", "true"
		_, problems := policy.Compile(policy.Source{Default: narrow, Rules: []policy.Rule{r}})
		require.Len(t, problems, 1, grants)
		require.Contains(t, problems[0].Message, grants)
	}
}

// TestBadRules has what is wrong with a rule, and where.
func TestBadRules(t *testing.T) {
	for _, c := range []struct {
		name     string
		rule     policy.Rule
		key      string
		offset   int
		mentions string
	}{
		{"no name", policy.Rule{When: "true"}, "name", 0, `"" is not a rule's name`},
		{"a name with a space", policy.Rule{Name: "a b", When: "true"}, "name", 0, `"a b" is not a rule's name`},
		{"the name default", policy.Rule{Name: "default", When: "true"}, "name", 0, `not "default"`},
		{"no expression", policy.Rule{Name: "x", When: " "}, "when", 0, "the expression is empty"},
		{"a syntax error", policy.Rule{Name: "x", When: "git.protected &&& true"}, "when", 16, "Syntax error"},
		{"a misspelt fact", policy.Rule{Name: "x", When: "true && git.protcted"}, "when", 8, "there is no fact git.protcted"},
		{"a misspelt fact's remedy", policy.Rule{Name: "x", When: "git.protcted"}, "when", 0, "did you mean git.protected?"},
		{"an unknown group", policy.Rule{Name: "x", When: "gti.protected"}, "when", 0, "there is no fact gti.protected; did you mean git.protected?"},
		{"an unknown function", policy.Rule{Name: "x", When: "shell('x')"}, "when", 0, "there is no fact or function shell"},
		{"a letter that is none of CEL's", policy.Rule{Name: "x", When: "'ä' == 'ö' || äh"}, "when", 16, "token recognition error"},
		{"a comparison of types, behind letters of two bytes", policy.Rule{Name: "x", When: "claimed.image == 'ä' ||\n git.protected == 1"}, "when", 40, "found no matching overload"},
		{"no truth", policy.Rule{Name: "x", When: "git.ref"}, "when", 0, "it yields string, not true or false"},
		{"too long", policy.Rule{Name: "x", When: "true" + strings.Repeat(" ", 5000)}, "when", 0, "size"},
		{"too deep", policy.Rule{Name: "x", When: strings.Repeat("(true ? ", 100) + "true" + strings.Repeat(": false)", 100)}, "when", 0, "recursion limit"},
		{"too costly", policy.Rule{Name: "x", When: `claimed.variables.exists(a, claimed.variables.exists(b, claimed.variables[a] == b))`}, "when", 0, "for the most hostile job"},
		{"a bad pattern", policy.Rule{Name: "x", When: `claimed.image.matches("(")`}, "when", 0, "missing closing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{c.rule}})
			require.Nil(t, p)
			require.NotEmpty(t, problems)
			require.Equal(t, c.key, problems[0].Key)
			require.Contains(t, problems[0].Message+"; "+problems[0].Remedy, c.mentions)
			require.Equal(t, c.offset, problems[0].Offset, problems[0].Message)
			require.NotEmpty(t, problems[0].Remedy)
		})
	}
	_, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{{Name: "x", When: "true"}, {Name: "x", When: "true"}}})
	require.Len(t, problems, 1)
	require.Equal(t, 1, problems[0].Rule)
	_, problems = policy.Compile(policy.Source{Default: base(), Rules: make([]policy.Rule, 501)})
	require.Contains(t, problems[len(problems)-1].Message, "there are 501 rules")
}

func TestDigestsTellPoliciesApart(t *testing.T) {
	digest := func(src policy.Source) string {
		p, problems := policy.Compile(src)
		require.Empty(t, problems)
		return p.Digest()
	}
	one := digest(policy.Source{Default: base(), Rules: []policy.Rule{weakening("git.protected")}})
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, one)
	require.Equal(t, one, digest(policy.Source{Default: base(), Rules: []policy.Rule{weakening("git.protected")}}))
	require.NotEqual(t, one, digest(policy.Source{Default: base(), Rules: []policy.Rule{weakening("id.ref_protected")}}))
	require.NotEqual(t, one, digest(policy.Source{Default: base()}))
	require.NotEqual(t, one, digest(policy.Source{Default: base(), Rules: []policy.Rule{weakening("git.protected")}, IDToken: "x"}))
}

func TestExplain(t *testing.T) {
	p := compile(t,
		policy.Rule{Name: "no-forks", When: `git.merge_request`, Reject: "no"},
		policy.Rule{Name: "id", When: `id.ref_protected && id.project_id == 42`, Isolation: ptr(isolation.ProcessLevel)},
		weakening(`git.protected && "A" in claimed.variables`),
		policy.Rule{Name: "rest", When: "true", Network: ptr("none")},
	)
	facts := job(t, strings.Replace(honest, `{"id":1`, `{"id":1,"variables":[{"key":"A","value":"geheim"}]`, 1))
	e := p.Explain(facts)
	require.Equal(t, "weaker", e.Rule)
	require.Equal(t, "process", e.Decision.Isolation)
	outcomes := map[string]string{}
	for _, s := range e.Rules {
		outcomes[s.Name] = s.Outcome
	}
	require.Equal(t, map[string]string{"no-forks": "did not match", "id": "could not be evaluated", "weaker": "matched", "rest": "not reached"}, outcomes)
	require.Contains(t, e.Rules[1].Why, "id.ref_protected is unknown; it gives more than the default, so in doubt it does not match")
	require.Equal(t, []policy.Fact{
		{Name: "git.protected", Known: true, Value: true, Provenance: policy.Attested, Source: "GitLab's job response"},
		{Name: "claimed.variables", Known: true, Value: "1 variables, not shown", Provenance: policy.Claimed, Source: "the job's author"},
	}, e.Rules[2].Facts)
	require.Equal(t, policy.Fact{Name: "id.ref_protected", Provenance: policy.Attested, Source: "a verified id token"}, e.Rules[1].Facts[0])
	require.Equal(t, []string{"isolation process"}, e.Rules[2].Grants)
	require.Equal(t, []string{"reject"}, e.Rules[0].Grants)

	e = p.Explain(job(t, unknown))
	require.Nil(t, e.Decision)
	require.Equal(t, "no", e.Refusal)
	require.Equal(t, "no-forks", e.Rule)
	require.Contains(t, e.Rules[0].Why, "in doubt it decides")
}

// TestLint has policies that are valid and what is worth a second look in them.
func TestLint(t *testing.T) {
	stricter := func(when string) policy.Rule { return policy.Rule{Name: "stricter", When: when, Network: ptr("none")} }
	const (
		place    = "0: everybody has protected branches"
		protect  = "0: a fork's merge request that a member runs"
		merge    = "0: a merge request between protected branches"
		avoided  = "0: it is stricter by what the job's author writes"
		reached  = "1: it is never reached"
		noEffect = "0: it grants just what the default grants"
		good     = `git.protected && !git.merge_request && job.root_namespace_id == 7`
	)
	for _, c := range []struct {
		name  string
		rules []policy.Rule
		wants []string
	}{
		{"nothing", []policy.Rule{weakening(good)}, nil},
		{"a class alone is enough", []policy.Rule{weakening(`runner.class == "protected"`)}, nil},
		{"never reached", []policy.Rule{stricter("true"), weakening(`runner.class == "protected"`)}, []string{reached}},
		{"no effect", []policy.Rule{{Name: "x", When: "git.protected"}}, []string{noEffect}},
		{"escapable", []policy.Rule{stricter(`claimed.image == "x"`), weakening(`runner.class == "protected"`)}, []string{avoided}},
		{"not escapable", []policy.Rule{stricter(`claimed.image == "x" && git.protected`), weakening(`runner.class == "protected"`)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) { requireLint(t, compile(t, c.rules...), c.wants...) })
	}
	// What rules demand that give the weaker level.
	for when, wants := range map[string][]string{
		`git.protected && !git.merge_request`:   {place},
		`job.project_id == 42`:                  {protect},
		`git.protected && job.project_id == 42`: {merge},
		`git.protected`:                         {place, merge},
		`job.project_path == "example/project" && (git.protected || true)`:                                        {protect},
		`job.project_path == "example/project" && (git.protected || claimed.stage == "x")`:                        {protect},
		`job.project_path == "example/project" && (git.protected || !git.protected)`:                              {protect},
		`job.project_path == "example/project" && !git.protected`:                                                 {protect},
		`job.project_path == "example/project" && git.protected == false`:                                         {protect},
		`job.project_path == "example/project" && has(git.protected)`:                                             {protect},
		`job.project_path == "example/project" && (git.merge_request ? git.protected : true)`:                     {protect},
		`git.protected && job.project_path != "evil/x"`:                                                           {place, merge},
		`git.protected && !(job.project_path in ["evil/x"])`:                                                      {place, merge},
		`git.protected && !job.project_path.startsWith("evil/")`:                                                  {place, merge},
		`git.protected && job.project_path.startsWith("company") && !git.merge_request`:                           {place},
		`git.protected && job.project_path.endsWith("/x") && !git.merge_request`:                                  {place},
		`git.protected && job.project_id > 5 && !git.merge_request`:                                               {place},
		`git.protected && !git.merge_request && job.organization_id == 1`:                                         {place},
		`git.protected && !git.merge_request && job.instance_id == "inst"`:                                        {place},
		`git.protected && !git.merge_request && id.project_visibility == "private"`:                               {place},
		`git.protected && !git.merge_request && (job.project_id == 42 || git.ref == "main")`:                      {place},
		`git.protected && job.project_id == 42 && id.environment_protected`:                                       {merge},
		`job.project_id == 42 && id.environment_protected && git.protected == true`:                               {merge},
		`git.protected || job.project_id == 42`:                                                                   {place, protect},
		`job.project_path == "example/project" && git.protected && git.ref != "x"`:                                {merge},
		`job.project_path == "example/project" && git.protected && git.merge_request`:                             {merge},
		`job.project_path == "example/project" && git.protected && !has(git.merge_request)`:                       {merge},
		`job.project_path == "example/project" && git.protected && (!git.merge_request || true)`:                  {merge},
		`job.project_path == "example/project" && git.protected && git.ref.startsWith("refs/")`:                   {merge},
		`job.project_path == "example/project" && git.protected && !git.ref.startsWith("wip/")`:                   {merge},
		`job.project_path == "example/project" && git.protected && git.ref.contains("e")`:                         {merge},
		`job.project_path == "example/project" && git.protected && git.ref.matches("head")`:                       {merge},
		`job.project_path == "example/project" && git.protected && git.ref == claimed.stage`:                      {merge},
		`job.project_path == "example/project" && git.protected && git.ref_type == "branch"`:                      {merge},
		`job.project_path == "example/project" && git.protected && id.pipeline_source == "push"`:                  {merge},
		`runner.class == "protected" && git.protected`:                                                            {merge},
		`id.ref_protected && id.ci_config_ref_uri.startsWith("gitlab.example.com/")`:                              {place, merge},
		`id.ref_protected && id.ci_config_ref_uri.startsWith("gitlab.example.com/company") && !git.merge_request`: {place},
		`id.ref_protected && id.ci_config_ref_uri != "gitlab.example.com/g/p//x@refs/heads/main"`:                 {place, merge},
		`id.ref_protected && id.ci_config_ref_uri.startsWith("gitlab.example.com/company/")`:                      {merge},

		// Right rules.
		good: nil,
		`git.protected && git.merge_request == false && job.project_id == 42`:                                           nil,
		`git.protected == true && git.merge_request != true && job.project_id in [1, 2]`:                                nil,
		`!(!git.protected || git.merge_request || job.project_id != 42)`:                                                nil,
		`git.protected && git.merge_request in [false] && id.namespace_path == "company"`:                               nil,
		`git.protected && job.project_id == 42 && git.ref == "main"`:                                                    nil,
		`git.protected && job.project_id == 42 && git.ref in ["main", "stable"]`:                                        nil,
		`git.protected && job.project_id == 42 && git.ref.startsWith("release/")`:                                       nil,
		`git.protected && job.project_id == 42 && !git.ref.startsWith("refs/merge-requests/")`:                          nil,
		`git.protected && job.project_id == 42 && !git.ref.contains("merge-requests")`:                                  nil,
		`git.protected && job.project_id == 42 && git.ref.matches("^v[0-9]+$")`:                                         nil,
		`git.protected && job.project_id == 42 && git.ref_type == "tag"`:                                                nil,
		`id.ref_protected && id.project_id == 42 && id.ref == "main"`:                                                   nil,
		`id.ref_protected && id.ci_config_ref_uri == "gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/main"`:          nil,
		`id.ref_protected && id.ci_config_ref_uri.startsWith("gitlab.example.com/g/p//x@refs/heads/")`:                  nil,
		`git.protected && !git.merge_request && (job.project_id == 42 || id.project_path == "company/x")`:               nil,
		`runner.class == "protected" || git.protected && !git.merge_request && job.project_id == 42`:                    nil,
		`runner.class == "protected" && git.protected && !git.merge_request`:                                            nil,
		`claimed.stage == "deploy" ? runner.class == "a" : git.protected && job.project_id == 42 && !git.merge_request`: nil,
		`git.protected && job.project_id == 42 && (git.ref == "main" || !git.merge_request)`:                            nil,
	} {
		t.Run(when, func(t *testing.T) { requireLint(t, compile(t, weakening(when)), wants...) })
	}
}

// TestLintOfStricterRules has, for a default of the weaker level, rules that give less, and whether the job's author can
// avoid them by another choice.
func TestLintOfStricterRules(t *testing.T) {
	open := base()
	open.Level = isolation.ProcessLevel
	for when, chosen := range map[string]string{
		`claimed.image.startsWith("evil")`:                                 "claimed.image",
		`claimed.image == "x"`:                                             "claimed.image",
		`claimed.image != "good"`:                                          "claimed.image",
		`!(claimed.image in ["good"])`:                                     "claimed.image",
		`"BAD" in claimed.variables`:                                       "claimed.variables",
		`claimed.variables["A"] == "1" || claimed.stage == "x"`:            "claimed.variables, claimed.stage",
		`claimed.services.exists(s, s == "docker:dind")`:                   "claimed.services",
		`git.ref.startsWith("wip/")`:                                       "git.ref",
		`git.ref != "main"`:                                                "git.ref",
		`git.ref.matches("^feature")`:                                      "git.ref",
		`id.ref == "x"`:                                                    "id.ref",
		`id.environment == "test"`:                                         "id.environment",
		`git.ref_type == "branch"`:                                         "git.ref_type",
		`id.pipeline_source == "schedule"`:                                 "id.pipeline_source",
		`git.ref.startsWith("wip/") && !git.protected`:                     "git.ref",
		`!git.protected && claimed.image.startsWith("evil")`:               "claimed.image",
		`git.merge_request || claimed.image == "x"`:                        "claimed.image",
		`job.project_path == "evil/x" && claimed.stage == "x"`:             "claimed.stage",
		`runner.class == "open" && git.ref == "x"`:                         "git.ref",
		`claimed.stage == "a" ? git.merge_request : !git.protected`:        "claimed.stage",
		`has(claimed.image) && size(claimed.image) > 5`:                    "claimed.image",
		`!(git.protected && claimed.stage == "x" || claimed.stage == "y")`: "claimed.stage",

		`true`:                                       "",
		`git.merge_request`:                          "",
		`!git.protected`:                             "",
		`git.protected == false`:                     "",
		`job.project_path == "evil/x"`:               "",
		`job.project_path != "good/x"`:               "",
		`runner.class == "open"`:                     "",
		`job.user_id == 666`:                         "",
		`git.ref.startsWith("refs/merge-requests/")`: "",
		`!(git.protected && git.ref == "main")`:      "",
		`!git.protected || claimed.image == "x"`:     "",
		`!(git.protected && job.project_id == 42 && claimed.stage == "x")`: "",
		`git.protected && claimed.image == "x"`:                            "",
	} {
		for name, r := range map[string]policy.Rule{
			"level": {Isolation: ptr(isolation.HypervisorLevel)}, "reject": {Reject: "no"}, "network": {Network: ptr("none")}, "memory": {Memory: ptr(int64(1 << 30))},
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				r.Name, r.When = "stricter", when
				p, problems := policy.Compile(policy.Source{Default: open, Rules: []policy.Rule{r}})
				require.Empty(t, problems)
				if chosen == "" {
					requireLint(t, p)
					return
				}
				requireLint(t, p, "0: it is stricter by what the job's author writes ("+chosen+"), who can write something else and get more from the default")
			})
		}
	}
	// What gives more is another rule, or nothing that can be reached.
	strict := policy.Rule{Name: "strict", When: `git.ref == "x"`, Network: ptr("none"), Isolation: ptr(isolation.HypervisorLevel)}
	for _, c := range []struct {
		later []policy.Rule
		want  string
	}{
		{[]policy.Rule{{Name: "rest", When: "true", Network: ptr("none"), Isolation: ptr(isolation.HypervisorLevel)}}, ""},
		{[]policy.Rule{{Name: "rest", When: "true", Network: ptr("none")}}, `0: it is stricter by what the job's author writes (git.ref), who can write something else and get more from rule "rest"`},
		{[]policy.Rule{{Name: "rest", When: "true", Reject: "no"}}, ""},
	} {
		p, problems := policy.Compile(policy.Source{Default: open, Rules: append([]policy.Rule{strict}, c.later...)})
		require.Empty(t, problems)
		if c.want == "" {
			requireLint(t, p)
		} else {
			requireLint(t, p, c.want)
		}
	}
}

// TestLintOfTheOrder has rules that an author avoids by satisfying one before them.
func TestLintOfTheOrder(t *testing.T) {
	open := base()
	open.Level = isolation.ProcessLevel
	fast := policy.Rule{Name: "fast", When: `claimed.stage == "fast"`, Isolation: ptr(isolation.ProcessLevel)}
	const avoided = `1: rule "fast" before it gives more, and the job's author can satisfy that by what he writes (claimed.stage) and so avoid this one`
	const noEffect = "0: it grants just what the default grants"
	for _, c := range []struct {
		name          string
		first, second policy.Rule
		wants         []string
	}{
		{"the level", fast, policy.Rule{When: `!git.protected`, Isolation: ptr(isolation.HypervisorLevel)}, []string{noEffect, avoided}},
		{"the level of all others", fast, policy.Rule{When: `true`, Isolation: ptr(isolation.HypervisorLevel)}, []string{noEffect, avoided}},
		{"a refusal", fast, policy.Rule{When: `git.merge_request`, Reject: "no"}, []string{noEffect, avoided}},
		{"a list of what is allowed", fast, policy.Rule{When: `true`, Reject: "no"}, []string{noEffect}},
		{"the other order", policy.Rule{Name: "mr", When: `git.merge_request`, Isolation: ptr(isolation.HypervisorLevel)}, fast, []string{"1: it grants just what"}},
		{"by a fact that somebody vouches for", policy.Rule{Name: "fast", When: `git.protected && claimed.stage == "fast"`},
			policy.Rule{When: `!git.protected`, Isolation: ptr(isolation.HypervisorLevel)}, []string{noEffect}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.second.Name == "" {
				c.second.Name = "second"
			}
			p, problems := policy.Compile(policy.Source{Default: open, Rules: []policy.Rule{c.first, c.second}})
			require.Empty(t, problems)
			requireLint(t, p, c.wants...)
		})
	}
}

// requireLint wants just these warnings, each with the rule's index and the beginning of the message.
func requireLint(t *testing.T, p *policy.Policy, wants ...string) {
	t.Helper()
	found := p.Lint()
	require.Len(t, found, len(wants), "%v", found)
	for i, want := range wants {
		index, message, _ := strings.Cut(want, ": ")
		require.Equal(t, index, fmt.Sprint(found[i].Rule))
		require.Contains(t, found[i].Message, message)
		require.NotEmpty(t, found[i].Remedy)
	}
}
