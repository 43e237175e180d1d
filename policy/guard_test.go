package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

// base is the default of the tests' policies.
func base() policy.Grant {
	return policy.Grant{
		Level: isolation.HypervisorLevel, Limits: isolation.Limits{Memory: 4 << 30, CPUs: 2, PIDs: 4096, Scratch: 20 << 30},
		Network: "nat", Images: []string{"registry.example.com/**", "!**/*:latest"},
		PullPolicies: []string{"if-not-present", "always"}, CacheScope: "project",
	}
}

func ptr[T any](v T) *T { return &v }

// weakening is a rule that gives the weaker level.
func weakening(when string) policy.Rule {
	return policy.Rule{Name: "weaker", When: when, Isolation: ptr(isolation.ProcessLevel)}
}

func compile(t *testing.T, rules ...policy.Rule) *policy.Policy {
	t.Helper()
	p, problems := policy.Compile(policy.Source{Default: base(), Rules: rules})
	require.Empty(t, problems)
	return p
}

// TestGuard has the verdict on each expression: accepted, or refused with the sub-expression that an author alone
// could satisfy, where that begins, and why.
func TestGuard(t *testing.T) {
	for _, c := range []struct {
		when string
		part string // empty: accepted
		why  string
	}{
		// One vouching fact.
		{`git.protected`, "", ""},
		{`git.protected == true`, "", ""},
		{`true == git.protected`, "", ""},
		{`git.protected != false`, "", ""},
		{`!(git.protected == false)`, "", ""},
		{`!!git.protected`, "", ""},
		{`runner.class == "protected"`, "", ""},
		{`"protected" == runner.class`, "", ""},
		{`!(runner.class != "protected")`, "", ""},
		{`runner.class in ["protected", "release"]`, "", ""},
		{`runner.class.startsWith("prot")`, "", ""},
		{`job.project_id == 42`, "", ""},
		{`job.project_id in [42, 43]`, "", ""},
		{`job.project_path.startsWith("company/")`, "", ""},
		{`job.root_namespace_id == 7`, "", ""},
		{`id.ref_protected`, "", ""},
		{`git.protected in [true]`, "", ""},
		{`!(git.protected in [false])`, "", ""},
		{`!(!(git.protected))`, "", ""},
		{`.git.protected`, "", ""},
		{`true == (git.protected != false)`, "", ""},
		{`id.namespace_path == "company"`, "", ""},
		{`job.namespace_id == 7`, "", ""},
		{`id.project_path in ["company/a", "company/b"]`, "", ""},

		// Beside one, what is no demand itself may narrow.
		{`git.protected && id.ci_config_ref_uri == "gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/main"`, "", ""},
		{`id.ref_protected && id.ci_config_ref_uri.startsWith("gitlab.example.com/g/")`, "", ""},
		{`id.ref_protected && id.environment_protected && id.environment == "production"`, "", ""},
		{`git.protected && job.organization_id == 1 && job.instance_id == "inst"`, "", ""},

		// Every path demands one.
		{`git.protected && claimed.image == "x"`, "", ""},
		{`claimed.image == "x" && git.protected`, "", ""},
		{`claimed.image == "x" && (git.protected || runner.class == "protected")`, "", ""},
		{`git.protected || id.ref_protected`, "", ""},
		{`git.protected && !git.merge_request`, "", ""},
		{`git.protected && git.ref == "main"`, "", ""},
		{`!(!git.protected || claimed.image == "x")`, "", ""},
		{`!(claimed.image == "x" || !(runner.class == "a"))`, "", ""},
		{`claimed.image == "x" ? git.protected : runner.class == "a"`, "", ""},
		{`git.protected ? true : false`, "", ""},
		{`git.protected ? claimed.image == "x" : id.ref_protected`, "", ""},
		{`git.protected && claimed.services.all(s, s.startsWith("registry.example.com/"))`, "", ""},
		{`false`, "", ""},
		{`claimed.image == "x" && false`, "", ""},
		{`runner.class in []`, "", ""},

		// The author decides a path.
		{`claimed.image == "x"`, `claimed.image == "x"`, "the job's author decides claimed.image"},
		{`git.protected || claimed.image == "x"`, `claimed.image == "x"`, "author decides"},
		{`git.protected || job.project_id == 1 && (id.ref_protected || claimed.stage == "deploy") || claimed.job_name == "x"`, `claimed.job_name == "x"`, "author decides"},
		{`claimed.variables["CI_COMMIT_REF_PROTECTED"] == "true"`, `claimed.variables["CI_COMMIT_REF_PROTECTED"] == "true"`, "author decides claimed.variables"},
		{`claimed.variables.CI_PIPELINE_SOURCE != "merge_request_event"`, `claimed.variables.CI_PIPELINE_SOURCE != "merge_request_event"`, "author decides"},
		{`"CI_COMMIT_TAG" in claimed.variables`, `"CI_COMMIT_TAG" in claimed.variables`, "author decides"},
		{`claimed.image == "x" && claimed.stage == "y"`, `claimed.image == "x" && claimed.stage == "y"`, "claimed.image, and the job's author decides claimed.stage"},
		{`!(git.protected && claimed.image == "x")`, `git.protected`, "what git.protected is not"},
		{`claimed.image == "x" ? true : git.protected`, `true`, "always so"},
		{`git.protected ? true : claimed.image == "x"`, `claimed.image == "x"`, "author decides"},
		{`git.protected == (claimed.image == "x")`, `git.protected == (claimed.image == "x")`, "neither is a constant"},
		{`job.project_path == claimed.image`, `job.project_path == claimed.image`, "neither is a constant"},
		{`claimed.services.all(s, git.protected)`, "", "a loop over nothing"},
		{`claimed.services.exists(s, s == "x") && claimed.image == "y"`, "", "a loop over nothing"},
		{`[git.protected, true].exists(p, p)`, "", "a loop over nothing"},

		// Attested, and yet no demand.
		{`true`, `true`, "always so"},
		{`1 == 1`, `1 == 1`, "no fact that somebody vouches for"},
		{`!git.protected`, `git.protected`, "what git.protected is not"},
		{`git.protected == false`, `git.protected`, "what git.protected is not"},
		{`git.protected || !git.protected`, `git.protected`, "what git.protected is not"},
		{`git.protected in [true, false]`, `git.protected in [true, false]`, "the list holds something"},
		{`runner.class != "untrusted"`, `runner.class != "untrusted"`, "what runner.class is not"},
		{`!(runner.class in ["untrusted"])`, `runner.class in ["untrusted"]`, "what runner.class is not"},
		{`runner.class == ""`, `runner.class == ""`, "empty text"},
		{`runner.class in ["protected", claimed.image]`, `runner.class in ["protected", claimed.image]`, "the list holds something"},
		{`runner.class in claimed.services`, `runner.class in claimed.services`, "author decides claimed.services"},
		{`runner.class.startsWith("")`, `runner.class.startsWith("")`, "empty or computed"},
		{`runner.class.startsWith(claimed.image)`, `runner.class.startsWith(claimed.image)`, "empty or computed"},
		{`runner.class.matches(".*")`, `runner.class.matches(".*")`, "demand facts with =="},
		{`job.project_path.endsWith("/project")`, `job.project_path.endsWith("/project")`, "demand facts with =="},
		{`job.project_path.contains("company")`, `job.project_path.contains("company")`, "demand facts with =="},
		{`job.project_path.startsWith("company")`, `job.project_path.startsWith("company")`, "end it with a /"},
		{`id.ci_config_ref_uri.startsWith("gitlab.example.com/")`, `id.ci_config_ref_uri.startsWith("gitlab.example.com/")`, "ends in a ref that whoever may push names"},
		{`id.ci_config_ref_uri == "gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/main"`, `id.ci_config_ref_uri == "gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/main"`, "ends in a ref"},
		{`id.ci_config_ref_uri == "a/b//c@refs/heads/main" && id.ref == "main"`, `id.ci_config_ref_uri == "a/b//c@refs/heads/main" && id.ref == "main"`, "ends in a ref"},
		{`job.instance_id == "inst"`, `job.instance_id == "inst"`, "the same for strangers"},
		{`job.instance_id in ["inst"] && job.organization_id == 1`, `job.instance_id in ["inst"] && job.organization_id == 1`, "one for everybody"},
		{`git.protected || job.organization_id == 1`, `job.organization_id == 1`, "one for everybody"},
		{`job.instance_id.startsWith("i/")`, `job.instance_id.startsWith("i/")`, "the same for strangers"},
		{`id.runner_id == 5`, `id.runner_id == 5`, "the same for strangers"},
		{`id.runner_environment == "self-hosted"`, `id.runner_environment == "self-hosted"`, "the same for strangers"},
		{`id.project_visibility == "private"`, `id.project_visibility == "private"`, "anybody can make such a project"},
		{`id.environment_protected`, `id.environment_protected`, "who may deploy"},
		{`id.environment_protected && id.environment == "production"`, `id.environment_protected && id.environment == "production"`, "who may deploy"},
		{`id.user_login == "root"`, `id.user_login == "root"`, "a fork's merge request"},
		{`id.user_id == 1 && job.user_id == 1`, `id.user_id == 1 && job.user_id == 1`, "a fork's merge request"},
		{`job.policy_job`, `job.policy_job`, "beside the author's files"},
		{`job.policy_name == "x"`, `job.policy_name == "x"`, "beside the author's files"},
		{`git.repo_url == "https://g/p.git"`, `git.repo_url == "https://g/p.git"`, "says more"},
		{`git.sha == "x"`, `git.sha == "x"`, "whoever may push"},
		{`"x" in git.refspecs`, `"x" in git.refspecs`, "no fact that somebody vouches for"},

		// Tricks.
		{`"a" + "b" == "ab"`, `"a" + "b" == "ab"`, "no fact that somebody vouches for"},
		{`job.project_path == "company/" + claimed.stage`, `job.project_path == "company/" + claimed.stage`, "neither is a constant"},
		{`job.project_path + "" == "company/x"`, `job.project_path + "" == "company/x"`, "no fact that somebody vouches for"},
		{`job.project_path in ["company/x", claimed.stage + "y"]`, `job.project_path in ["company/x", claimed.stage + "y"]`, "the list holds something"},
		{`runner.class in ["protected", ""]`, `runner.class in ["protected", ""]`, "the list holds something"},
		{`"company/x".startsWith(job.project_path)`, `"company/x".startsWith(job.project_path)`, "empty or computed"},
		{`"company/x".startsWith("company/")`, `"company/x".startsWith("company/")`, "no fact that somebody vouches for"},
		{`(job.project_path + "/").startsWith("company/")`, "", "no fact that somebody vouches for"},
		{`string(git.protected) == "true"`, `string(git.protected) == "true"`, "no fact that somebody vouches for"},
		{`dyn(git.protected) == true`, `dyn(git.protected)`, "demand facts with =="},
		{`[git.protected] == [git.protected]`, `[git.protected] == [git.protected]`, "neither is a constant"},
		{`{"a": git.protected}["a"]`, `{"a": git.protected}["a"]`, "no fact that somebody vouches for"},
		{`{"a": true}.a`, `{"a": true}.a`, "no fact that somebody vouches for"},
		{`git.protected == git.protected`, `git.protected == git.protected`, "neither is a constant"},
		{`git.protected ? git.protected : true`, `true`, "always so"},
		{`(git.protected ? false : true) || git.protected`, `true`, "always so"},
		{`!(git.protected in [true])`, `git.protected`, "what git.protected is not"},
		{`git.protected in [false]`, `git.protected`, "what git.protected is not"},
		{`[1].exists(x, git.protected)`, "", "a loop over nothing"},
		{`git.protected > false`, `git.protected > false`, "demand facts with =="},
		{`job.project_id >= 42 && job.project_id <= 42`, `job.project_id >= 42 && job.project_id <= 42`, "demand facts with =="},
		{`job.project_id > 0`, `job.project_id > 0`, "demand facts with =="},
		{`size(job.project_path) > 0`, `size(job.project_path) > 0`, "demand facts with =="},
		{`has(git.protected)`, `has(git.protected)`, "only that something is known"},
		{`!has(git.protected)`, `has(git.protected)`, "only that something is known"},
		{`!has(id.job_id) && claimed.image == "x"`, `!has(id.job_id) && claimed.image == "x"`, "only that something is known"},
		{`job.user_id == 5`, `job.user_id == 5`, "a fork's merge request that a member runs"},
		{`id.user_access_level in ["maintainer", "owner"]`, `id.user_access_level in ["maintainer", "owner"]`, "a fork's merge request"},
		{`id.pipeline_source == "push"`, `id.pipeline_source == "push"`, "anybody can start"},
		{`git.ref == "main"`, `git.ref == "main"`, "whoever may push"},
		{`git.ref.startsWith("release/")`, `git.ref.startsWith("release/")`, "whoever may push"},
		{`git.merge_request`, `git.merge_request`, "whoever may push"},
		{`!git.merge_request`, `git.merge_request`, "whoever may push"},
		{`job.timeout == 60`, `job.timeout == 60`, "author sets it"},
		{`job.id == 5`, `job.id == 5`, "every job has one"},
	} {
		t.Run(c.when, func(t *testing.T) {
			_, problems := policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{weakening(c.when)}})
			if c.why == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			require.Equal(t, "when", problems[0].Key)
			require.Contains(t, problems[0].Message, "grants isolation process instead of hypervisor")
			require.Contains(t, problems[0].Message, c.why)
			require.Contains(t, problems[0].Remedy, "git.protected &&")
			if c.part != "" {
				require.Contains(t, problems[0].Message, "could satisfy `"+c.part+"` (")
				require.Equal(t, strings.LastIndex(c.when, c.part), problems[0].Offset)
			}
			// A rule that gives nothing more may say the same.
			_, problems = policy.Compile(policy.Source{Default: base(), Rules: []policy.Rule{{Name: "stricter", When: c.when, Memory: ptr(int64(1 << 30))}}})
			require.Empty(t, problems)
		})
	}
}
