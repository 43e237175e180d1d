package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

func TestWithoutAPolicyThereIsNone(t *testing.T) {
	require.Nil(t, parse(t, "").Policy)
	require.Equal(t, isolation.HypervisorLevel, parse(t, "").Isolation)
	require.Equal(t, isolation.ProcessLevel, parse(t, "isolation = 'process'").Isolation)
	require.Equal(t, []isolation.Level{isolation.ProcessLevel}, parse(t, "isolation = 'process'").Levels())
}

func TestAnEmptyPolicyMakesEveryJobHypervisor(t *testing.T) {
	for _, text := range []string{"[policy]", "policy = {}", "[policy]\ndefault = 'hypervisor'", "policy.default = 'hypervisor'"} {
		c := parse(t, text)
		require.NotNil(t, c.Policy, text)
		d, err := c.Policy.Decide(t.Context(), policy.Facts{Job: &gitlab.JobResponse{ID: 1}})
		require.NoError(t, err)
		require.Equal(t, isolation.HypervisorLevel, d.Level)
		require.Equal(t, []isolation.Level{isolation.HypervisorLevel}, c.Levels())
	}
}

func TestEveryKeyOfAPolicy(t *testing.T) {
	c := parse(t, `
memory = "2g"
allowed_images = ["debian:*"]

[policy]
default = "hypervisor"

[policy.id_token]
issuer = "https://gitlab.example.com"
audience = "https://airlock.example.com"
variable = "AIRLOCK_TOKEN"
keys = "/etc/airlock/keys.json"

[[policy.rules]]
name = "trusted"
when = "git.protected && id.ref_protected && !git.merge_request"
isolation = "process"
network = "none"
images = ["registry.example.com/**", "!**/*:latest"]
services = "postgres:*"
pull_policies = ["always"]
cache = "job"
limits = { memory = "8g", cpus = "4", pids = 8192, scratch = "40g", timeout = "2h" }

[[policy.rules]]
name = "forks"
when = '''
  git.merge_request'''
reject = "not here"

[[policy.rules]]
name = "rest"
when = "true"
[policy.rules.limits]
memory = "1g"
cpus = 0.5
`)
	require.Equal(t, &config.IDToken{
		Issuer: "https://gitlab.example.com", Audience: "https://airlock.example.com", Variable: "AIRLOCK_TOKEN", Keys: "/etc/airlock/keys.json",
	}, c.Policy.IDToken)
	require.Equal(t, []isolation.Level{isolation.HypervisorLevel, isolation.ProcessLevel}, c.Levels())

	yes, main := true, "main"
	specs := gitlab.Lenient[[]string]{Value: &[]string{"+refs/heads/main:x"}}
	job := &gitlab.JobResponse{ID: 1, GitInfo: gitlab.GitInfo{Protected: &yes, Ref: &main, Refspecs: specs}}
	d, err := c.Policy.Decide(t.Context(), policy.Facts{Job: job, Identity: &policy.Identity{RefProtected: &yes}})
	require.NoError(t, err)
	require.Equal(t, policy.Decision{
		Level: isolation.ProcessLevel, Rule: "trusted", Policy: c.Policy.Digest(), Reason: d.Reason,
		Limits: isolation.Limits{Memory: 8 << 30, CPUs: 4, PIDs: 8192, Scratch: 40 << 30}, Timeout: 2 * time.Hour, Network: "none",
		AllowedImages: []string{"registry.example.com/**", "!**/*:latest"}, AllowedServices: []string{"postgres:*"},
		PullPolicies: []string{"always"}, CacheScope: "job",
	}, d)

	d, err = c.Policy.Decide(t.Context(), policy.Facts{Job: job})
	require.NoError(t, err)
	require.Equal(t, "rest", d.Rule)
	require.Equal(t, isolation.HypervisorLevel, d.Level)
	require.Equal(t, isolation.Limits{Memory: 1 << 30, CPUs: 0.5, PIDs: 4096, Scratch: 20 << 30}, d.Limits)
	require.Equal(t, []string{"debian:*"}, d.AllowedImages, "what a rule does not say, the top level says")

	merge := "refs/merge-requests/1/head"
	_, err = c.Policy.Decide(t.Context(), policy.Facts{Job: &gitlab.JobResponse{ID: 1, GitInfo: gitlab.GitInfo{Protected: &yes, Ref: &merge}}})
	require.ErrorContains(t, err, "not here")
}

const rule = "[[policy.rules]]\nname = 'x'\n"

// TestProblemsOfPolicies writes one bad file per case, as TestProblems does.
func TestProblemsOfPolicies(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		wants      []string
	}{
		{"both", "isolation = 'process'\n[policy]\n", []string{`1:1: isolation: it and [policy] exclude each other; remove it`}},
		{"both, the same", "isolation = 'hypervisor'\npolicy.default = 'hypervisor'\n", []string{`1:1: isolation: it and [policy] exclude each other`}},
		{"default", "[policy]\ndefault = 'vm'\n", []string{`2:11: policy.default: "vm" is not a choice; use "process" or "hypervisor"`}},
		{"unknown key", "[policy]\ndefalt = 'hypervisor'\n", []string{`2:1: policy.defalt: unknown key; did you mean default in [policy]?`}},
		{"one table of rules", "[policy.rules]\nname = 'x'\n", []string{`1:2: policy.rules: there may be several; write [[policy.rules]]`}},
		{"rules as a list", "[policy]\nrules = [{name = 'x'}]\n", []string{`2:1: policy.rules: its rules are tables; write each below a line [[policy.rules]]`}},
		{"misspelt table", "[[policy.rule]]\nname = 'x'\n", []string{`1:3: policy.rule: unknown table; did you mean [[policy.rules]]?`}},
		{"unknown key of a rule", rule + "when = 'true'\nisolaton = 'process'\n", []string{`4:1: policy.rules.isolaton: unknown key; did you mean isolation?`}},
		{"unknown limit", rule + "when = 'true'\nlimits = {memroy = '1g'}\n", []string{`4:11: policy.rules.limits.memroy: unknown key; did you mean limits.memory?`}},
		{"limits as a value", rule + "when = 'true'\nlimits = 5\n", []string{`4:1: policy.rules.limits: is a table`}},
		{"no name", "[[policy.rules]]\nwhen = 'true'\n", []string{`1:3: policy.rules.name: "" is not a rule's name`}},
		{"no condition", rule + "isolation = 'hypervisor'\n", []string{`1:3: policy.rules.when: the expression is empty`}},
		{"a name twice", rule + "when = 'true'\n" + rule + "when = 'true'\n", []string{`5:8: policy.rules.name: there is a rule "x" already`}},
		{"level of a rule", rule + "when = 'true'\nisolation = 'none'\n", []string{`4:13: policy.rules.isolation: "none" is not a choice`}},
		{"network of a rule", rule + "when = 'true'\nnetwork = 'host'\n", []string{`4:11: policy.rules.network: "host" is not a choice; use "nat" or "none"`}},
		{"cache of a rule", rule + "when = 'true'\ncache = 'host'\n", []string{`4:9: policy.rules.cache: "host" is not a choice; use "project" or "job"`}},
		{"no images", rule + "when = 'true'\nimages = []\n", []string{`4:1: policy.rules.images: the list is empty; name at least one`}},
		{"a bad pattern", rule + "when = 'true'\nimages = ['a', 'b/[']\n", []string{`4:16: policy.rules.images: "b/[" is not a pattern`}},
		{"patterns that deny nothing", rule + "when = 'true'\nimages = ['a.b/**', '!**:latest']\nservices = '!registry/**x'\n", []string{
			`4:21: policy.rules.images: "!**:latest" has ** in "**:latest", where it is no more than * and stays within a path element; write "!**/*:latest"`,
			`5:12: policy.rules.services: "!registry/**x" has ** in "**x", where it is no more than *`,
		}},
		{"the organization and the instance", rule + "isolation = 'process'\nwhen = 'job.instance_id == \"x\" && job.organization_id == 1'\n", []string{
			"4:9: policy.rules.when: a job's author alone could satisfy `job.instance_id == \"x\" && job.organization_id == 1` (job.instance_id is attested, but it is the same for strangers, and job.organization_id",
		}},
		{"limits", rule + "when = 'true'\n[policy.rules.limits]\nmemory = '1k'\ncpus = -1\npids = 1\nscratch = 5\ntimeout = '1ms'\n", []string{
			`5:10: policy.rules.limits.memory: "1k" is out of range`, `6:8: policy.rules.limits.cpus: -1 is not a number of cores`, `7:8: policy.rules.limits.pids: 1 is out of range`,
			`8:11: policy.rules.limits.scratch: 5 is not a size`, `9:11: policy.rules.limits.timeout: "1ms" is out of range`,
		}},
		{"reject and grant", rule + "when = 'true'\nreject = 'no'\nisolation = 'hypervisor'\n", []string{`5:1: policy.rules.isolation: a rule that rejects grants nothing; remove it, or reject`}},
		{"an empty message", rule + "when = 'true'\nreject = ' '\n", []string{`4:10: policy.rules.reject: " " is not a message`}},

		{"a condition that is none", rule + "when = true\n", []string{`3:8: policy.rules.when: true is not a string; put it in quotes`}},
		{"a misspelt fact", rule + `when = "git.ref == 'main' && git.protcted"` + "\n", []string{`3:30: policy.rules.when: there is no fact git.protcted; did you mean git.protected?`}},
		{"behind escapes", rule + `when = "git.ref == \"m\u00e4in\" && git.protcted"` + "\n", []string{`3:37: policy.rules.when: there is no fact git.protcted`}},
		{"on the third line", rule + "when = '''\ngit.ref == 'main' &&\n  git.protcted'''\n", []string{`5:3: policy.rules.when: there is no fact git.protcted`}},
		{"on a folded line", rule + "when = \"\"\"git.ref == 'main' && \\\n  git.protcted\"\"\"\n", []string{`4:3: policy.rules.when: there is no fact git.protcted`}},
		{"syntax", rule + "when = 'git.protected &&'\n", []string{`3:25: policy.rules.when: Syntax error`}},
		{"the author's word for a weaker level", rule + "isolation = 'process'\nwhen = '''\n  git.protected ||\n  claimed.variables[\"CI_COMMIT_REF_PROTECTED\"] == \"true\"\n'''\n", []string{
			"6:3: policy.rules.when: a job's author alone could satisfy `claimed.variables[\"CI_COMMIT_REF_PROTECTED\"] == \"true\"` (the job's author decides claimed.variables), and with it this rule, which grants isolation process instead of hypervisor; demand a fact that somebody vouches for",
		}},
		{"the author's word for more memory", rule + "limits.memory = '64g'\nwhen = 'true'\n", []string{
			"4:9: policy.rules.when: a job's author alone could satisfy `true` (it is always so), and with it this rule, which grants limits.memory 64 GiB instead of 4 GiB",
		}},
		{"for the network", "network_mode = 'none'\n" + rule + "network = 'nat'\nwhen = 'git.ref == \"main\"'\n", []string{"5:9: policy.rules.when: a job's author alone could satisfy `git.ref == \"main\"`"}},
		{"for images", "allowed_images = ['debian:*']\n" + rule + "images = '**'\nwhen = 'git.ref == \"main\"'\n", []string{"5:9: policy.rules.when: a job's author alone could satisfy"}},

		{"no issuer, no audience", "[policy.id_token]\nvariable = 'X'\n", []string{
			`1:2: policy.id_token: issuer is missing; add the URL of GitLab`, `1:2: policy.id_token: audience is missing; add what aud: says`,
		}},
		{"no audience, without a table", "policy.id_token.issuer = 'https://g'\n", []string{`1:1: policy.id_token: audience is missing`}},
		{"no audience, in the table above", "[policy]\nid_token.issuer = 'https://g'\n", []string{`2:1: policy.id_token: audience is missing`}},
		{"an empty table", "[policy.id_token]\n", []string{`1:2: policy.id_token: issuer is missing`}},
		{"issuer", "[policy.id_token]\nissuer = 'gitlab.example.com'\naudience = 'a'\n", []string{`2:10: policy.id_token.issuer: "gitlab.example.com" is not GitLab's URL`}},
		{"unencrypted issuer", "[policy.id_token]\nissuer = 'http://gitlab.example.com'\naudience = 'a'\n", []string{`2:10: policy.id_token.issuer: "http://gitlab.example.com" is not encrypted`}},
		{"audience", "[policy.id_token]\nissuer = 'https://g'\naudience = ''\n", []string{`3:12: policy.id_token.audience: "" is not an audience`}},
		{"variable", "[policy.id_token]\nissuer = 'https://g'\naudience = 'a'\nvariable = '$X'\n", []string{`4:12: policy.id_token.variable: "$X" is not a variable's name`}},
		{"keys", "[policy.id_token]\nissuer = 'http://g'\naudience = 'a'\nkeys = 'keys.json'\n", []string{
			`2:10: policy.id_token.issuer: "http://g" is not encrypted`, `4:8: policy.id_token.keys: "keys.json" is not an absolute path`,
		}},
		{"id facts without tokens", rule + "when = 'git.protected && id.ref_protected'\nisolation = 'process'\n", []string{
			`3:26: policy.rules.when: id.ref_protected is never known: no id token is believed; add [policy.id_token]`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse([]byte(tc.text), "/etc/airlock/config.toml")
			require.Error(t, err)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
			lines := strings.Split(err.Error(), "\n")
			require.Len(t, lines, len(tc.wants), err.Error())
			for i, want := range tc.wants {
				require.True(t, strings.HasPrefix(lines[i], "/etc/airlock/config.toml:"+want), "got  %s\nwant %s", lines[i], want)
				require.Contains(t, lines[i], "; ", "a remedy")
			}
		})
	}
}

func TestWarningsHaveAPlace(t *testing.T) {
	c := parse(t, rule+"isolation = 'process'\nwhen = 'git.protected && !git.merge_request'\n")
	require.Len(t, c.Policy.Warnings, 1)
	w := c.Policy.Warnings[0]
	require.Equal(t, "4:9 policy.rules.when", fmt.Sprintf("%d:%d %s", w.Line, w.Column, w.Key))
	require.Contains(t, w.Message, "everybody has protected branches")
}
