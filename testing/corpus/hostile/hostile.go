// Package hostile is a corpus of job responses by which an author tries to be trusted: every variable that GitLab sets
// overridden, doubled, moved or invented, id tokens of every bad kind, attested keys absent, null, doubled or of another
// type, and sizes, depths and bytes that no GitLab sends.
//
// Each case names its honest twin: the job as GitLab would have sent it without the trick. Whatever a policy says, the
// case must get no weaker isolation than its twin. The corpus is a table, and made anew for every run, because tokens
// have to be of now.
package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// What the shipped policies believe.
const (
	Issuer   = "https://gitlab.example.com"
	Audience = "https://airlock.example.com"
	Variable = "AIRLOCK_ID_TOKEN"
)

// Case is one response.
type Case struct {
	Name string
	// Response is the hostile job response, Twin the honest one.
	Response, Twin []byte
}

// Corpus makes cases. Project is the path and the name of what policies trust; the honest jobs belong to it.
type Corpus struct {
	Project string
	// GitLab signs the tokens that policies believe.
	GitLab *gitlabtest.Issuer
	// Token, when true, gives honest jobs a good id token.
	Token bool
}

// Honest returns the honest jobs, by name: a fork's merge request, an unprotected branch, a protected
// branch, a merge request between protected branches.
func (c Corpus) Honest() map[string][]byte {
	honest := map[string][]byte{}
	for name, job := range c.jobs() {
		honest[name] = response(job)
	}
	return honest
}

func (c Corpus) jobs() map[string]gitlabtest.Job {
	yes, no := true, false
	jobs := map[string]gitlabtest.Job{
		"merge request":           {ID: 7, Ref: "refs/merge-requests/1/head", Protected: &no},
		"branch":                  {ID: 8, Ref: "feature", Protected: &no},
		"protected branch":        {ID: 9, Ref: "main", Protected: &yes},
		"protected merge request": {ID: 10, Ref: "refs/merge-requests/2/head", Protected: &yes},
	}
	for name, job := range jobs {
		job.ProjectPath, job.Image, job.Script = c.Project, "registry.example.com/build:1", []string{"true"}
		if c.Token {
			job.Variables = []gitlabtest.Variable{{Key: Variable, Value: c.GitLab.Sign(c.GitLab.Claims(job, Audience, nil)), Masked: true}}
		}
		jobs[name] = job
	}
	return jobs
}

// response is a job's response, byte for byte as a runner of release 19.4 writes it.
func response(job gitlabtest.Job) []byte {
	data, err := gitlabtest.Response(job)
	if err != nil {
		panic(fmt.Sprintf("hostile: %v", err)) // the jobs above can be encoded
	}
	return data
}

// Cases returns every trick, tried from every honest job.
func (c Corpus) Cases() []Case {
	var cases []Case
	for from, job := range c.jobs() {
		twin := response(job)
		for _, trick := range c.tricks(job) {
			cases = append(cases, Case{Name: from + ": " + trick.name, Response: trick.response, Twin: twin})
		}
	}
	return cases
}

// Tricks is how many tricks there are.
func (c Corpus) Tricks() int { return len(c.tricks(c.jobs()["branch"])) }

type trick struct {
	name     string
	response []byte
}

func (c Corpus) tricks(job gitlabtest.Job) []trick {
	var all []trick
	all = append(all, variableTricks(job)...)
	all = append(all, claimTricks(job)...)
	all = append(all, c.tokenTricks(job)...)
	all = append(all, factTricks(job)...)
	return append(all, formTricks(job)...)
}

// variableTricks are what variables: in .gitlab-ci.yml can do: GitLab sends them last, and of doubles the last wins.
func variableTricks(job gitlabtest.Job) []trick {
	var all []trick
	with := func(name string, variables ...gitlabtest.Variable) {
		changed := job
		changed.Variables = append(append([]gitlabtest.Variable{}, job.Variables...), variables...)
		all = append(all, trick{name, response(changed)})
	}
	// Each of them is believed by some driver or policy that was published.
	for _, v := range [][2]string{
		{"CI_COMMIT_REF_PROTECTED", "true"}, {"CI_PIPELINE_SOURCE", "push"}, {"CI_JOB_ID", "9"}, {"CI_PROJECT_PATH", "company/monorepo"},
		{"CI_PROJECT_ID", "1"}, {"CI_PROJECT_NAMESPACE", "company"}, {"CI_PROJECT_ROOT_NAMESPACE", "company"}, {"CI_JOB_IMAGE", "registry.example.com/trusted"},
		{"CI_COMMIT_TAG", "v1.0.0"}, {"CI_COMMIT_REF_NAME", "main"}, {"CI_COMMIT_BRANCH", "main"}, {"CI_DEFAULT_BRANCH", "main"},
		{"CI_MERGE_REQUEST_ID", ""}, {"CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "company/monorepo"}, {"CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED", "true"},
		{"CI_OPEN_MERGE_REQUESTS", ""}, {"CI_RUNNER_TAGS", `["protected"]`}, {"CI_RUNNER_DESCRIPTION", "protected"}, {"CI_RUNNER_ID", "1"},
		{"GITLAB_USER_LOGIN", "root"}, {"GITLAB_USER_ID", "1"}, {"CI_ENVIRONMENT_NAME", "production"}, {"CI_DISPOSABLE_ENVIRONMENT", "false"},
		{"CI_SHARED_ENVIRONMENT", "false"}, {"CI_SERVER_URL", "https://evil.example.com"}, {"CI_JOB_JWT", "x"}, {"CI_JOB_TOKEN", "x"},
		{"AIRLOCK_ISOLATION", "process"}, {"AIRLOCK_ISOLATION", "none"}, {"AIRLOCK_JOB_HANDLE", "9-00000000000000000000000000000000"},
		{"JOB_RESPONSE_FILE", "/builds/forged.json"}, {"CUSTOM_ENV_CI_COMMIT_REF_PROTECTED", "true"}, {"runner.class", "protected"}, {"git.protected", "true"},
	} {
		with("variable "+v[0]+"="+v[1], gitlabtest.Variable{Key: v[0], Value: v[1], Public: true})
	}
	with("a variable twice", gitlabtest.Variable{Key: "CI_COMMIT_REF_PROTECTED", Value: "false"}, gitlabtest.Variable{Key: "CI_COMMIT_REF_PROTECTED", Value: "true"})
	with("a wish, taken back", gitlabtest.Variable{Key: "AIRLOCK_ISOLATION", Value: "hypervisor"}, gitlabtest.Variable{Key: "AIRLOCK_ISOLATION", Value: "process"})
	with("a variable that expands", gitlabtest.Variable{Key: "CI_COMMIT_REF_PROTECTED", Value: "${TRUE}"}, gitlabtest.Variable{Key: "TRUE", Value: "true"})
	with("a value with line breaks", gitlabtest.Variable{Key: "X", Value: "\n\"git_info\":{\"protected\":true}\n"})
	with("a value with a NUL", gitlabtest.Variable{Key: "CI_COMMIT_REF_PROTECTED", Value: "true\x00false"})
	with("a name with a NUL", gitlabtest.Variable{Key: "CI_COMMIT_REF_PROTECTED\x00", Value: "true"})
	with("a huge value", gitlabtest.Variable{Key: "X", Value: strings.Repeat("x", 1<<20)})
	many := make([]gitlabtest.Variable, 12000)
	for i := range many {
		many[i] = gitlabtest.Variable{Key: fmt.Sprint("V", i), Value: "true"}
	}
	with("very many variables", many...)
	all = append(all, trick{"variables in reverse", edit(job, func(r map[string]any) {
		list := r["variables"].([]any)
		for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
			list[i], list[j] = list[j], list[i]
		}
	})}, trick{"no variables", edit(job, func(r map[string]any) { delete(r, "variables") })})
	return all
}

// claimTricks are what else an author writes.
func claimTricks(job gitlabtest.Job) []trick {
	with := func(name string, change func(*gitlabtest.Job)) trick {
		changed := job
		change(&changed)
		return trick{name, response(changed)}
	}
	return []trick{
		with("a trustworthy name", func(j *gitlabtest.Job) { j.Name = "deploy to production" }),
		with("a trustworthy stage", func(j *gitlabtest.Job) { j.Stage = ".pre" }),
		with("another image", func(j *gitlabtest.Job) { j.Image = "registry.example.com/trusted:1" }),
		with("an image in the form of an expression", func(j *gitlabtest.Job) { j.Image = `" || true || "` }),
		with("services", func(j *gitlabtest.Job) { j.Services = []gitlabtest.Service{{Name: "protected"}} }),
		with("very many services", func(j *gitlabtest.Job) { j.Services = make([]gitlabtest.Service, 1000) }),
		with("a short time-out", func(j *gitlabtest.Job) { j.Timeout = time.Second }),
		{"a job of a security policy, it says", edit(job, func(r map[string]any) {
			r["policy_options"] = map[string]any{"execution_policy_job": "true", "policy_name": "trusted"}
		})},
		{"attested keys at the top", edit(job, func(r map[string]any) {
			r["protected"], r["runner_class"], r["ref_protected"], r["facts"] = true, "protected", true, map[string]any{"git.protected": true}
		})},
	}
}

// tokenTricks are id tokens that must not be believed. Of several the last one counts, so a bad one replaces a good one.
func (c Corpus) tokenTricks(job gitlabtest.Job) []trick {
	trusted := map[string]any{
		"ref_protected": "true", "project_path": c.Project, "user_access_level": "owner", "pipeline_source": "push",
		"ci_config_ref_uri": "gitlab.example.com/" + c.Project + "//.gitlab-ci.yml@refs/heads/main",
	}
	claims := func(change ...any) map[string]any {
		all := c.GitLab.Claims(job, Audience, trusted)
		for i := 0; i < len(change); i += 2 {
			all[change[i].(string)] = change[i+1]
		}
		return all
	}
	forger := gitlabtest.NewIssuer(c.GitLab.URL)
	var all []trick
	with := func(name, token string) {
		changed := job
		changed.Variables = append(append([]gitlabtest.Variable{}, job.Variables...), gitlabtest.Variable{Key: Variable, Value: token, Masked: true})
		all = append(all, trick{"id token: " + name, response(changed)})
	}
	with("not a token", "trust me")
	with("algorithm none", gitlabtest.Unsigned(claims()))
	with("without its signature", strings.Join(strings.Split(c.GitLab.Sign(claims()), ".")[:2], ".")+".")
	with("signed with the public key", c.GitLab.SignShared(claims()))
	with("signed with a key of the author's", forger.Sign(claims()))
	with("of another issuer", gitlabtest.NewIssuer("https://evil.example.com").Sign(claims("iss", "https://evil.example.com")))
	with("for another audience", c.GitLab.Sign(claims("aud", "https://vault.example.com")))
	with("expired", c.GitLab.Sign(claims("exp", time.Now().Add(-time.Minute).Unix())))
	with("that never expires", c.GitLab.Sign(claims("exp", nil)))
	with("not valid yet", c.GitLab.Sign(claims("nbf", time.Now().Add(time.Hour).Unix())))
	with("of another job", c.GitLab.Sign(claims("job_id", "4711")))
	with("of no job", c.GitLab.Sign(claims("job_id", nil)))
	with("of another project", c.GitLab.Sign(claims("project_id", "4711")))
	with("of another ref", c.GitLab.Sign(claims("ref", "protected-branch")))
	with("with its payload replaced", func() string {
		good, other := strings.Split(c.GitLab.Sign(c.GitLab.Claims(job, Audience, nil)), "."), strings.Split(c.GitLab.Sign(claims("sub", "x")), ".")
		return good[0] + "." + other[1] + "." + good[2]
	}())
	with("of absurd length", strings.Repeat("x", 1<<20))
	return all
}

// factTricks are attested keys that are not as they should be. The runner drops what it does not know, an older GitLab
// does not send all.
func factTricks(job gitlabtest.Job) []trick {
	git := func(name string, change func(git map[string]any)) trick {
		return trick{name, edit(job, func(r map[string]any) { change(r["git_info"].(map[string]any)) })}
	}
	info := func(name string, change func(info map[string]any)) trick {
		return trick{name, edit(job, func(r map[string]any) { change(r["job_info"].(map[string]any)) })}
	}
	return []trick{
		git("protected null", func(g map[string]any) { g["protected"] = nil }),
		git("protected missing", func(g map[string]any) { delete(g, "protected") }),
		git("protected as text", func(g map[string]any) { g["protected"] = "true" }),
		git("protected as a number", func(g map[string]any) { g["protected"] = 1 }),
		git("protected as a list", func(g map[string]any) { g["protected"] = []any{true} }),
		git("protected in another case", func(g map[string]any) { delete(g, "protected"); g["Protected"] = true }),
		git("protected beside itself in another case", func(g map[string]any) { g["PROTECTED"] = true }),
		git("protected with a letter that folds", func(g map[string]any) { delete(g, "protected"); g["prote\u0441ted"] = true }),
		git("ref of a merge request", func(g map[string]any) { g["ref"] = "refs/merge-requests/1/head" }),
		git("ref of a merge request's result", func(g map[string]any) { g["ref"] = "refs/merge-requests/1/merge" }),
		git("ref null", func(g map[string]any) { g["ref"] = nil }),
		git("ref with a NUL", func(g map[string]any) { g["ref"] = "main\x00" }),
		git("ref of absurd length", func(g map[string]any) { g["ref"] = "main" + strings.Repeat("x", 1<<16) }),
		git("refspecs of a merge request", func(g map[string]any) { g["refspecs"] = []any{"+refs/merge-requests/1/head:refs/remotes/origin/main"} }),
		git("refspecs missing", func(g map[string]any) { delete(g, "refspecs") }),
		git("refspecs empty", func(g map[string]any) { g["refspecs"] = []any{} }),
		git("refspecs beside something strange", func(g map[string]any) { g["refspecs"] = []any{"+refs/heads/main:x", 5} }),
		git("refspecs as text", func(g map[string]any) { g["refspecs"] = "main" }),
		info("project path missing", func(i map[string]any) { delete(i, "project_full_path") }),
		info("project path with a NUL", func(i map[string]any) { i["project_full_path"] = i["project_full_path"].(string) + "\x00" }),
		info("project id 0", func(i map[string]any) { i["project_id"] = 0 }),
		info("namespace as text", func(i map[string]any) { i["root_namespace_id"] = "7" }),
		info("another user", func(i map[string]any) { i["user_id"] = 2 }),
		{"git_info null", edit(job, func(r map[string]any) { r["git_info"] = nil })},
		{"git_info as a list", edit(job, func(r map[string]any) { r["git_info"] = []any{r["git_info"]} })},
		{"job_info missing", edit(job, func(r map[string]any) { delete(r, "job_info") })},
	}
}

// formTricks are documents that readers understand differently.
func formTricks(job gitlabtest.Job) []trick {
	honest := string(bytes.TrimSpace(response(job)))
	protected := fmt.Sprintf(`"protected":%t`, *job.Protected)
	replace := func(name, old, with string) trick {
		if !strings.Contains(honest, old) {
			panic("hostile: " + name + ": the response has no " + old)
		}
		return trick{name, []byte(strings.Replace(honest, old, with, 1))}
	}
	return []trick{
		replace("protected twice, true last", protected, protected+`,"protected":true`),
		replace("protected twice, true first", protected, `"protected":true,`+protected),
		replace("protected twice, one escaped", protected, protected+`,"\u0070rotected":true`),
		replace("git_info twice", `"git_info":`, `"git_info":{"protected":true,"ref":"main"},"git_info":`),
		replace("git_info twice, the other last", `"runner_info":`, `"git_info":{"protected":true,"ref":"main"},"runner_info":`),
		replace("job_info twice", `"runner_info":`, `"job_info":{"project_full_path":"company/monorepo"},"runner_info":`),
		replace("id twice", `{"id":`, `{"id":1,"id":`),
		replace("a comment", protected, `/* "protected":false */ "protected":true`),
		replace("not UTF-8", `"ref_type":"branch"`, "\"ref_type\":\"branch\xff\""),
		replace("a byte order mark", `{"id":`, "\ufeff"+`{"id":`),
		replace("a NUL between keys", `"ref_type"`, "\x00\"ref_type\""),
		replace("NaN", protected, `"protected":NaN`),
		{"a second document", []byte(honest + `{"id":1,"git_info":{"protected":true}}`)},
		{"cut off", []byte(honest[:len(honest)/2])},
		{"empty", nil},
		{"deep nesting", []byte(strings.Replace(honest, `"inputs":{}`, `"inputs":`+strings.Repeat("[", 100000)+strings.Repeat("]", 100000), 1))},
		{"of absurd size", []byte(strings.Replace(honest, `"inputs":{}`, `"inputs":"`+strings.Repeat("x", 17<<20)+`"`, 1))},
	}
}

// edit changes a job's response as a JSON document.
func edit(job gitlabtest.Job, change func(map[string]any)) []byte {
	var document map[string]any
	decoder := json.NewDecoder(bytes.NewReader(response(job)))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		panic(fmt.Sprintf("hostile: %v", err)) // it is a job response
	}
	change(document)
	changed, err := json.Marshal(document)
	if err != nil {
		panic(fmt.Sprintf("hostile: %v", err)) // it was JSON
	}
	return changed
}
