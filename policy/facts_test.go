package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/policy"
)

// read returns every known fact of a job response.
func read(t *testing.T, response, runnerClass string, identity *policy.Identity) map[string]any {
	t.Helper()
	job, err := gitlab.ParseJobResponse([]byte(response))
	require.NoError(t, err)
	facts := map[string]any{}
	for _, d := range policy.FactTable() {
		if value := d.Read(policy.Facts{Job: job, RunnerClass: runnerClass, Identity: identity}); value != nil {
			facts[d.Name] = value
		}
	}
	return facts
}

func TestFactsOfTheRecordedResponse(t *testing.T) {
	data, err := os.ReadFile("../testing/gitlabtest/testdata/recorded-19.4/job_response.json")
	require.NoError(t, err)
	facts := read(t, string(data), "protected", nil)
	variables := facts["claimed.variables"].(map[string]string)
	require.Equal(t, "1000", variables["CI_JOB_ID"])
	delete(facts, "claimed.variables")
	require.Equal(t, map[string]any{
		"job.id": int64(1000), "job.project_id": int64(42), "job.project_path": "group/project",
		"job.namespace_id": int64(7), "job.root_namespace_id": int64(7), "job.organization_id": int64(1),
		"job.instance_id": "inst", "job.pipeline_id": int64(1000), "job.user_id": int64(1), "job.timeout": int64(3600),
		"job.policy_job": false,
		"git.protected":  true, "git.ref": "main", "git.ref_type": "branch", "git.merge_request": false,
		"git.sha": "31a1dc35f3536e2705ee5c41d851f1246fb422bc", "git.repo_url": "http://127.0.0.1:8929/group/project.git",
		"git.refspecs":     []string{"+31a1dc35f3536e2705ee5c41d851f1246fb422bc:refs/pipelines/1000", "+refs/heads/main:refs/remotes/origin/main"},
		"runner.class":     "protected",
		"claimed.job_name": "build", "claimed.stage": "test", "claimed.image": "alpine:3.20", "claimed.pull_policies": []string(nil),
		"claimed.services": []string{"postgres:16", "redis:7"},
	}, facts)
}

// TestWhatIsUnknown: absent, null, of another type, or what no honest GitLab would send is no fact at all.
func TestWhatIsUnknown(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, c := range map[string]struct {
		fact, response string
	}{
		"protected absent":         {"git.protected", `{"id":1,"git_info":{}}`},
		"protected null":           {"git.protected", `{"id":1,"git_info":{"protected":null}}`},
		"no git_info":              {"git.merge_request", `{"id":1}`},
		"empty ref":                {"git.ref", `{"id":1,"git_info":{"ref":""}}`},
		"ref with NUL":             {"git.ref", `{"id":1,"git_info":{"ref":"main\u0000"}}`},
		"ref with line break":      {"git.ref", `{"id":1,"git_info":{"ref":"main\n"}}`},
		"ref with half a letter":   {"git.ref", `{"id":1,"git_info":{"ref":"main\ud800"}}`},
		"ref of absurd length":     {"git.ref", `{"id":1,"git_info":{"ref":"` + long + `"}}`},
		"project 0":                {"job.project_id", `{"id":1,"job_info":{"project_id":0}}`},
		"namespace negative":       {"job.namespace_id", `{"id":1,"job_info":{"namespace_id":-7}}`},
		"namespace as text":        {"job.namespace_id", `{"id":1,"job_info":{"namespace_id":"7"}}`},
		"namespace as fraction":    {"job.namespace_id", `{"id":1,"job_info":{"namespace_id":7.5}}`},
		"policy job as text":       {"job.policy_job", `{"id":1,"policy_options":{"execution_policy_job":"true"}}`},
		"refspecs of another type": {"git.refspecs", `{"id":1,"git_info":{"refspecs":["a",5]}}`},
		"a URL without a host":     {"git.repo_url", `{"id":1,"git_info":{"repo_url":"/etc/passwd"}}`},
		"no runner class":          {"runner.class", `{"id":1}`},
		"no id token":              {"id.ref_protected", `{"id":1}`},
		"absurd image":             {"claimed.image", `{"id":1,"image":{"name":"` + long + `"}}`},
		"absurd service":           {"claimed.services", `{"id":1,"services":[{"name":"` + long + `"}]}`},
		"very many services":       {"claimed.services", `{"id":1,"services":[` + strings.Repeat(`{"name":"x"},`, 300) + `{"name":"x"}]}`},
		"absurd variable":          {"claimed.variables", `{"id":1,"variables":[{"key":"A","value":"` + strings.Repeat("x", 300<<10) + `"}]}`},
		"very many variables":      {"claimed.variables", `{"id":1,"variables":[` + strings.Repeat(`{"key":"A"},`, 10001) + `{"key":"B"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			_, isKnown := read(t, c.response, "", nil)[c.fact]
			require.False(t, isKnown)
		})
	}
}

func TestFactsOfMergeRequests(t *testing.T) {
	for name, c := range map[string]struct {
		git  string
		want any
	}{
		"by its ref":            {`{"ref":"refs/merge-requests/1/head"}`, true},
		"by its refspec":        {`{"ref":"main","refspecs":["+refs/merge-requests/1/head:refs/remotes/x"]}`, true},
		"a branch":              {`{"ref":"main","refspecs":["+refs/heads/main:refs/remotes/origin/main"]}`, false},
		"no refspecs":           {`{"ref":"main"}`, nil},
		"empty refspecs":        {`{"ref":"main","refspecs":[]}`, nil},
		"strange refspecs":      {`{"ref":"main","refspecs":"+refs/heads/main:x"}`, nil},
		"no ref":                {`{"refspecs":["+refs/heads/main:refs/remotes/origin/main"]}`, nil},
		"no ref, but a refspec": {`{"refspecs":["+refs/merge-requests/1/head:x"]}`, true},
		"a doubtful name":       {`{"ref":"refs/merge-requests/1/head\u0000"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, read(t, `{"id":1,"git_info":`+c.git+`}`, "", nil)["git.merge_request"])
		})
	}
}

func TestFactsOfAnIdentity(t *testing.T) {
	yes, project := true, int64(42)
	facts := read(t, `{"id":1}`, "", &policy.Identity{RefProtected: &yes, ProjectID: &project})
	require.Equal(t, true, facts["id.ref_protected"])
	require.Equal(t, int64(42), facts["id.project_id"])
	require.NotContains(t, facts, "id.ref")
}

func TestTheLastOfSeveralVariablesCounts(t *testing.T) {
	facts := read(t, `{"id":1,"variables":[{"key":"A","value":"1"},{"key":"A","value":"2"},{"key":"B"}]}`, "", nil)
	require.Equal(t, map[string]string{"A": "2", "B": ""}, facts["claimed.variables"])
}

// TestFactTable: names are of use as expressions, and a reader can rely on "attested".
func TestFactTable(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range policy.FactTable() {
		require.Regexp(t, `^(job|git|runner|id|claimed)\.[a-z_]+$`, d.Name)
		require.False(t, seen[d.Name], d.Name)
		seen[d.Name] = true
		require.Equal(t, strings.HasPrefix(d.Name, "claimed."), d.Provenance == policy.Claimed, d.Name)
		require.NotEmpty(t, d.Meaning)
		require.NotEqual(t, d.Trust.Raises == policy.NoGrounds, d.Trust.Because == "", "%s: either it raises trust, or it says why not", d.Name)
		if d.Provenance == policy.Claimed {
			require.Equal(t, policy.Trust{Because: "the job's author decides it", Chosen: true}, d.Trust, d.Name)
		}
		require.NotEmpty(t, d.Source())
	}
}

// TestWhatRaisesTrust is the list of the facts that do. Before you add one, ask whether a stranger's job can have the
// value: in a project of the stranger's own, in a fork, in a fork's merge request that a member runs, with any name and
// any ref.
func TestWhatRaisesTrust(t *testing.T) {
	grounds := map[policy.Grounds][]string{}
	for _, d := range policy.FactTable() {
		if d.Trust.Raises != policy.NoGrounds {
			grounds[d.Trust.Raises] = append(grounds[d.Trust.Raises], d.Name)
		}
	}
	require.Equal(t, map[policy.Grounds][]string{
		policy.OfProject: {
			"job.project_id", "job.project_path", "job.namespace_id", "job.root_namespace_id", "id.project_id", "id.project_path", "id.namespace_id", "id.namespace_path",
		},
		policy.OfProtection: {"git.protected", "id.ref_protected"},
		policy.OfRunner:     {"runner.class"},
	}, grounds)
	require.Zero(t, policy.FactDefinition{}.Trust.Raises, "the zero value is no")
}

func TestValuesOfVariablesStayHidden(t *testing.T) {
	job, err := gitlab.ParseJobResponse([]byte(`{"id":1,"variables":[{"key":"TOKEN","value":"geheim"}]}`))
	require.NoError(t, err)
	encoded, err := json.Marshal(job.Variables)
	require.NoError(t, err)
	text := fmt.Sprintf("%v %+v %#v %s %q", job.Variables, job.Variables, job.Variables, job.Variables, job.Variables)
	require.NotContains(t, text+string(encoded), "geheim")
}
