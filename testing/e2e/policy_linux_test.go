package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/system"
)

const tokenAudience = "https://airlock.example.com"

// trustfulPolicy trusts a job in three ways: by the job response, by an id token, and by the runner that called.
func trustfulPolicy(keys string) string {
	return fmt.Sprintf(`[policy]
default = "hypervisor"
[policy.id_token]
issuer = "https://gitlab.example.com"
audience = %q
keys = %q
[[policy.rules]]
name = "by-response"
when = 'git.protected && !git.merge_request && job.project_path == "group/project"'
isolation = "process"
[[policy.rules]]
name = "by-token"
when = 'id.ref_protected && id.project_path == "group/project" && !git.merge_request'
isolation = "process"
[[policy.rules]]
name = "by-class"
when = 'runner.class == "protected"'
isolation = "process"
`, tokenAudience, keys)
}

// writeKeys writes an issuer's public keys to a file.
func writeKeys(t *testing.T, issuer *gitlabtest.Issuer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(path, issuer.JWKS(), 0o644))
	return path
}

// TestForgeriesEndInAVirtualMachine: through the calls of runner 19.4, the author of an unprotected branch tries to be
// trusted, and gets a kernel of the job's own each time; honest jobs that GitLab or the administrator vouches for get a
// container on the host's.
func TestForgeriesEndInAVirtualMachine(t *testing.T) {
	gitlab := gitlabtest.NewIssuer("https://gitlab.example.com")
	b := start(t, system.Options{
		Config: "cpus = \"1\"\nnetwork_mode = \"none\"\n", Policy: trustfulPolicy(writeKeys(t, gitlab)),
	})
	yes, no := true, false
	kernelOf := func(t *testing.T, result outcome) string {
		t.Helper()
		require.True(t, result.Success, result.Log)
		match := regexp.MustCompile(`\nkernel (\S+)`).FindStringSubmatch(result.Log)
		require.NotNil(t, match, result.Log)
		return match[1]
	}
	job := func(protected *bool, variables ...gitlabtest.Variable) gitlabtest.Job {
		return b.job(gitlabtest.Job{Ref: "feature", Protected: protected, Script: []string{"echo kernel $(uname -r)"}, Variables: variables})
	}
	signed := func(job gitlabtest.Job, sign func(map[string]any) string, change map[string]any) gitlabtest.Job {
		claims := gitlab.Claims(job, tokenAudience, map[string]any{"ref_protected": "true"})
		for key, value := range change {
			claims[key] = value
		}
		job.Variables = append(job.Variables, gitlabtest.Variable{Key: "AIRLOCK_ID_TOKEN", Value: sign(claims), Masked: true})
		return job
	}

	honest := map[string]struct {
		job    gitlabtest.Job
		class  string
		reason string
	}{
		"a protected branch":                    {job(&yes), "open", `rule "by-response" of the policy matched`},
		"a token of GitLab's":                   {signed(job(nil), gitlab.Sign, nil), "open", `rule "by-token" of the policy matched`},
		"a job that GitLab gave to this runner": {job(&no), "protected", `rule "by-class" of the policy matched`},
	}
	for name, c := range honest {
		t.Run("honest: "+name, func(t *testing.T) {
			result := b.runAs(c.class, c.job)
			require.Contains(t, result.Log, "process isolation")
			require.Contains(t, result.Log, c.reason)
			require.Equal(t, hostKernel(t), kernelOf(t, result))
		})
	}

	variable := func(key, value string) gitlabtest.Variable {
		return gitlabtest.Variable{Key: key, Value: value, Public: true}
	}
	forger := gitlabtest.NewIssuer("https://gitlab.example.com")
	trusted := honest["a protected branch"].job
	forgeries := map[string]gitlabtest.Job{
		"protected, by a variable": job(&no, variable("CI_COMMIT_REF_PROTECTED", "true")),
		"another pipeline, branch and tag": job(&no, variable("CI_PIPELINE_SOURCE", "push"), variable("CI_COMMIT_BRANCH", "main"),
			variable("CI_COMMIT_REF_NAME", "main"), variable("CI_COMMIT_TAG", "v1.0.0")),
		"another's job id":      job(&no, variable("CI_JOB_ID", fmt.Sprint(trusted.ID))),
		"a wish for less":       job(&no, variable("AIRLOCK_ISOLATION", "process")),
		"the runner's class":    job(&no, variable("RUNNER_CLASS", "protected"), variable("CI_RUNNER_TAGS", `["protected"]`), variable("runner_class", "protected")),
		"the driver's own word": job(&no, variable("JOB_RESPONSE_FILE", "/tmp/forged.json"), variable("AIRLOCK_JOB_HANDLE", "1-"+strings.Repeat("0", 32))),
		"an unsigned token":     signed(job(&no), gitlabtest.Unsigned, nil),
		"a token of one's own":  signed(job(&no), forger.Sign, nil),
		"another job's token":   signed(job(&no), gitlab.Sign, map[string]any{"job_id": fmt.Sprint(trusted.ID)}),
		"an expired token":      signed(job(&no), gitlab.Sign, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
		"a token for another":   signed(job(&no), gitlab.Sign, map[string]any{"aud": "https://vault.example.com"}),
		"a protected merge request": func() gitlabtest.Job {
			j := job(&yes)
			j.Ref = "refs/merge-requests/1/head"
			return j
		}(),
	}
	require.GreaterOrEqual(t, len(forgeries), 10)
	for name, forged := range forgeries {
		t.Run("forged: "+name, func(t *testing.T) {
			result := b.runAs("open", forged)
			require.Contains(t, result.Log, "hypervisor isolation (own kernel, qemu-")
			require.NotContains(t, result.Log, "process isolation")
			require.NotEqual(t, hostKernel(t), kernelOf(t, result))
			if strings.Contains(name, "token") {
				require.Contains(t, result.Log, "WARNING: the job's id token is not believed")
			}
		})
	}

	// What the audit log has of all this, and what it has not.
	data, err := os.ReadFile(filepath.Join(state, "audit", "decisions.jsonl"))
	require.NoError(t, err)
	decided := map[int64]string{}
	for line := range bytes.Lines(data) {
		var e struct {
			JobID           int64 `json:"job_id"`
			Isolation, Rule string
			Policy          string
		}
		require.NoError(t, json.Unmarshal(line, &e))
		require.Regexp(t, `^sha256:[0-9a-f]{64}$`, e.Policy)
		decided[e.JobID] = e.Isolation
	}
	for _, forged := range forgeries {
		require.Equal(t, "hypervisor", decided[forged.ID])
		for _, v := range forged.Variables {
			if v.Key == "AIRLOCK_ID_TOKEN" {
				require.NotContains(t, string(data)+b.Log(), v.Value)
			}
		}
	}
	require.Equal(t, "process", decided[trusted.ID])
	require.NotContains(t, string(data)+b.Log(), "glcbt-64_", "a job token")
}

// runAs runs a job on a runner whose prepare_args have the class.
func (b *bench) runAs(class string, job gitlabtest.Job) outcome {
	b.t.Helper()
	return outcome{b.newCaller("--runner-class", class).Run(b.t.Context(), job), b.gitlab.Job(job.ID)}
}

// TestAPolicyOfContainers looks at everything around a decision, with rules that need no virtual machines.
func TestAPolicyOfContainers(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := free.Addr().String()
	require.NoError(t, free.Close())
	b := start(t, system.Options{Config: fmt.Sprintf("listen_address = %q\n", address), Policy: `[policy]
default = "process"
[[policy.rules]]
name = "no-forks"
when = 'has(git.ref) && git.merge_request'
reject = "merge requests are built elsewhere"
[[policy.rules]]
name = "small"
when = 'claimed.job_name == "small"'
network = "none"
images = "**/busybox"
limits = { memory = "128m", timeout = "5s" }
[[policy.rules]]
name = "big"
when = 'git.protected && job.project_path == "group/project"'
limits = { memory = "768m" }
`})
	yes := true
	result := b.run(gitlabtest.Job{Protected: &yes, Script: []string{"true"}})
	require.True(t, result.Success, result.Log)
	require.Regexp(t, `process isolation \(.*\), because rule "big" of the policy matched \(sha256:[0-9a-f]{12}\)`, result.Log)
	require.Contains(t, result.Log, "768 MiB memory")

	result = b.run(gitlabtest.Job{Ref: "refs/merge-requests/1/head", Script: []string{"true"}})
	require.False(t, result.Success)
	require.Contains(t, result.Log, `airlock: this runner's policy refuses the job: merge requests are built elsewhere (rule "no-forks" of the policy sha256:`)
	require.Len(t, result.Calls, 3, "config, one prepare, cleanup: a refusal is final")

	result = b.run(gitlabtest.Job{Name: "small", Script: []string{"ls /sys/class/net", "sleep 100"}})
	require.False(t, result.Success)
	require.Contains(t, result.Log, "\nlo\n")
	require.Equal(t, gitlabtest.ScriptFailure, result.Reason, "%s", result.Log)
	require.Contains(t, result.Log, `the time of 5s that this runner's policy gives to the job has passed (rule "small")`)
	other := b.push(archived(t, must(images.Busybox(context.Background()))), "other")
	result = b.run(gitlabtest.Job{Name: "small", Image: other, Script: []string{"true"}})
	require.Contains(t, result.Log, "is not one of the allowed images: **/busybox")

	// A living job keeps its decision; a broken policy keeps the old one in force, loudly; a good one is for the next job.
	execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{Protected: &yes, Script: []string{"echo started", "sleep 1000"}}))
	require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 50*time.Millisecond, "%s", execution.Log())
	before := b.inspect(b.ps()[0].ID)
	require.Equal(t, "big", before.Rule)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, before.Policy)
	reload := func(said, old, changed string) {
		t.Helper()
		count := strings.Count(b.Log(), said)
		content, err := os.ReadFile(b.ConfigPath)
		require.NoError(t, err)
		require.Contains(t, string(content), old)
		require.NoError(t, os.WriteFile(b.ConfigPath, []byte(strings.Replace(string(content), old, changed, 1)), 0o644))
		require.NoError(t, syscall.Kill(b.HostPID(), syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Count(b.Log(), said) > count }, 10*time.Second, 10*time.Millisecond, "%s", b.Log())
	}
	reload("the configuration was NOT reloaded: the old one stays in force", "git.protected && job", "git.ref == \"main\" || job")
	require.Contains(t, b.Log(), "a job's author alone could satisfy")
	result = b.run(gitlabtest.Job{Protected: &yes, Script: []string{"true"}})
	require.Contains(t, result.Log, before.Policy[:19], "the old policy decides")
	require.Contains(t, result.Log, "768 MiB memory")
	reload("the configuration was reloaded", "git.ref == \"main\" || job", "git.protected && !git.merge_request && job")
	result = b.run(gitlabtest.Job{Protected: &yes, Script: []string{"true"}})
	require.Contains(t, result.Log, `rule "big"`)
	require.NotContains(t, result.Log, before.Policy[:19], "the new policy decides")
	require.Equal(t, before.Policy, b.inspect(before.ID).Policy, "a living job keeps its decision")
	execution.Abort()
	execution.Wait()

	reply, err := http.Get("http://" + address + "/metrics")
	require.NoError(t, err)
	defer reply.Body.Close()
	metrics, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	for _, line := range []string{
		`airlock_policy_decisions_total{isolation="process",rule="big"} 4`,
		`airlock_policy_decisions_total{isolation="rejected",rule="no-forks"} 1`,
		`airlock_policy_decisions_total{isolation="process",rule="small"} 2`,
	} {
		require.Contains(t, string(metrics), line)
	}
}
