package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
)

func TestFixedGivesEveryJobTheConfiguredDecision(t *testing.T) {
	fixed := policy.Fixed{
		Level: isolation.HypervisorLevel, Limits: isolation.Limits{Memory: 1}, Network: "nat",
		Images: []string{"a/**"}, PullPolicies: []string{"always"}, CacheScope: "project",
	}
	// Whatever a job claims, and whatever level it seems to ask for: only an administrator is heard.
	for name, facts := range map[string]policy.Facts{
		"nothing":           {Job: &gitlab.JobResponse{}},
		"a weaker level":    {Job: &gitlab.JobResponse{}, Requested: isolation.ProcessLevel},
		"another network":   {Job: &gitlab.JobResponse{}, Network: "host"},
		"a protected class": {Job: &gitlab.JobResponse{}, RunnerClass: "protected"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := fixed.Decide(t.Context(), facts)
			require.NoError(t, err)
			require.Regexp(t, `^sha256:[0-9a-f]{64}$`, d.Policy)
			require.Equal(t, policy.Decision{
				Level: isolation.HypervisorLevel, Rule: "default", Policy: d.Policy, Reason: `isolation = "hypervisor" in the runner's configuration`,
				Limits: isolation.Limits{Memory: 1}, Network: "nat",
				AllowedImages: []string{"a/**"}, PullPolicies: []string{"always"}, CacheScope: "project",
			}, d)
		})
	}
}

func TestAnAdministratorMayAskForMore(t *testing.T) {
	fixed := policy.Fixed{Level: isolation.HypervisorLevel, Network: "nat", Images: []string{"a/**"}, CacheScope: "project"}
	d, err := fixed.Decide(t.Context(), policy.Facts{Administrator: true, Requested: isolation.ProcessLevel, Network: "none"})
	require.NoError(t, err)
	require.Equal(t, policy.Decision{
		Level: isolation.ProcessLevel, Rule: "default", Policy: d.Policy, Reason: "the administrator asked for it", Network: "none", CacheScope: "job",
	}, d)

	d, err = fixed.Decide(t.Context(), policy.Facts{Administrator: true})
	require.NoError(t, err)
	require.Equal(t, isolation.HypervisorLevel, d.Level)
	require.Equal(t, "nat", d.Network)

	_, err = fixed.Decide(t.Context(), policy.Facts{Administrator: true, Network: "host"})
	require.ErrorContains(t, err, `unknown network "host"`)
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

func TestFixedHeedsAWishForMore(t *testing.T) {
	wish := func(values ...string) *gitlab.JobResponse {
		job := &gitlab.JobResponse{ID: 1}
		for _, value := range values {
			job.Variables = append(job.Variables, gitlab.Variable{Key: policy.WishVariable, Value: gitlab.Secret(value)})
		}
		return job
	}
	for _, level := range []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel} {
		d, err := policy.Fixed{Level: level}.Decide(t.Context(), policy.Facts{Job: wish("hypervisor", "process")})
		require.NoError(t, err)
		require.Equal(t, isolation.HypervisorLevel, d.Level)
		d, err = policy.Fixed{Level: level}.Decide(t.Context(), policy.Facts{Job: wish("process", "")})
		require.NoError(t, err)
		require.Equal(t, level, d.Level)
	}
}
