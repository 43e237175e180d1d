package hostile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/policy/idtoken"
	"github.com/airlock-ci/airlock/testing/corpus/hostile"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

const policies = "../../../docs/policies"

// shipped are the ready-made policies, with the project that each trusts.
func shipped() map[string]string {
	return map[string]string{
		"everything-hypervisor": "example/project", "open-source": "example/project",
		"company-monorepo": "company/monorepo", "protected-runner-pair": "example/project",
	}
}

// decider decides as the executor does: parse, verify, decide.
type decider struct {
	policy     jobs.Policy
	identities jobs.Identities
}

func load(t testing.TB, name string, issuer *gitlabtest.Issuer) decider {
	t.Helper()
	cfg, err := config.Load(filepath.Join(policies, name+".toml"))
	require.NoError(t, err)
	keys := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(keys, issuer.JWKS(), 0o600))
	options := idtoken.Options{Issuer: hostile.Issuer, Audience: hostile.Audience, Variable: hostile.Variable, KeysFile: keys}
	if token := cfg.Policy.IDToken; token != nil { // what the corpus signs is what the policy believes
		require.Equal(t, []string{options.Issuer, options.Audience, options.Variable}, []string{token.Issuer, token.Audience, token.Variable})
	}
	identities, err := idtoken.New(options)
	require.NoError(t, err)
	return decider{cfg.Policy, identities}
}

// refused is above every level: a job that is not run is isolated best.
const refused = isolation.HypervisorLevel + 1

// level is what a response gets.
func (d decider) level(t testing.TB, response []byte, class string) (isolation.Level, policy.Decision) {
	t.Helper()
	job, err := gitlab.ParseJobResponse(response)
	if err != nil {
		return refused, policy.Decision{}
	}
	facts := policy.Facts{Job: job, RunnerClass: class}
	if facts.Identity, err = d.identities.Verify(t.Context(), job); err != nil {
		facts.IdentityProblem = err.Error()
	}
	decision, err := d.policy.Decide(t.Context(), facts)
	if err != nil {
		return refused, decision
	}
	return decision.Level, decision
}

// TestNoTrickWeakens tries every trick from every honest job against every shipped policy, with and without id tokens,
// for runners with and without a class.
func TestNoTrickWeakens(t *testing.T) {
	issuer := gitlabtest.NewIssuer(hostile.Issuer)
	tried := 0
	for name, project := range shipped() {
		d := load(t, name, issuer)
		for _, token := range []bool{false, true} {
			corpus := hostile.Corpus{Project: project, GitLab: issuer, Token: token}
			for _, class := range []string{"", "open", "protected"} {
				for _, c := range corpus.Cases() {
					tried++
					want, honest := d.level(t, c.Twin, class)
					got, decision := d.level(t, c.Response, class)
					if got < want {
						t.Errorf("%s, runner class %q, %s: %s (%s) instead of %s (%s)", name, class, c.Name, got, decision.Reason, want, honest.Reason)
					}
					if got != refused && want != refused && decision.Limits.Memory > honest.Limits.Memory {
						t.Errorf("%s, runner class %q, %s: %d bytes of memory instead of %d", name, class, c.Name, decision.Limits.Memory, honest.Limits.Memory)
					}
				}
			}
		}
	}
	t.Logf("%d tricks, %d attempts", hostile.Corpus{Project: "a/b", GitLab: issuer}.Tricks(), tried)
	require.GreaterOrEqual(t, hostile.Corpus{Project: "a/b", GitLab: issuer}.Tricks(), 60)
}

// TestHonestJobsGetWhatTheyShould keeps the corpus from proving nothing: the same policies trust the honest.
func TestHonestJobsGetWhatTheyShould(t *testing.T) {
	issuer := gitlabtest.NewIssuer(hostile.Issuer)
	for name, project := range shipped() {
		d := load(t, name, issuer)
		for job, response := range (hostile.Corpus{Project: project, GitLab: issuer, Token: true}).Honest() {
			got, decision := d.level(t, response, "protected")
			want := isolation.HypervisorLevel
			switch {
			case job == "protected branch" && name != "everything-hypervisor":
				want = isolation.ProcessLevel
			case name == "protected-runner-pair" && !strings.HasPrefix(job, "protected"):
				want = refused // GitLab would not give it to a protected runner
			}
			require.Equal(t, want, got, "%s: %s: %s", name, job, decision.Reason)
		}
	}
	d := load(t, "company-monorepo", issuer)
	_, decision := d.level(t, hostile.Corpus{Project: "company/monorepo", GitLab: issuer, Token: true}.Honest()["protected branch"], "")
	require.Equal(t, "release", decision.Rule, "the good token is believed")
}

// withoutClaims is a job as if its author had written nothing.
func withoutClaims(job gitlab.JobResponse) *gitlab.JobResponse {
	job.Variables, job.Services, job.Image = nil, nil, gitlab.Image{}
	job.JobInfo.Name, job.JobInfo.Stage = "", ""
	return &job
}

// FuzzDecide: whatever a job response says, a shipped policy decides or refuses, and what the author claims, whatever it
// is, never weakens the level that the attested facts alone get.
func FuzzDecide(f *testing.F) {
	issuer := gitlabtest.NewIssuer(hostile.Issuer)
	var deciders []decider
	for name, project := range shipped() {
		deciders = append(deciders, load(f, name, issuer))
		for _, c := range (hostile.Corpus{Project: project, GitLab: issuer}).Cases() {
			if len(c.Response) < 64<<10 && strings.HasPrefix(c.Name, "protected branch") {
				f.Add(c.Response, "protected")
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, class string) {
		job, err := gitlab.ParseJobResponse(data)
		if err != nil {
			return
		}
		for _, d := range deciders {
			claimed, errClaimed := d.policy.Decide(t.Context(), policy.Facts{Job: job, RunnerClass: class})
			bare, errBare := d.policy.Decide(t.Context(), policy.Facts{Job: withoutClaims(*job), RunnerClass: class})
			require.Equal(t, errBare == nil, errClaimed == nil, "claims decide over a refusal")
			require.GreaterOrEqual(t, claimed.Level, bare.Level)
			require.NotEmpty(t, claimed.Rule)
			if errClaimed == nil {
				require.Contains(t, []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel}, claimed.Level)
			}
		}
	})
}
