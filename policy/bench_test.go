package policy_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/policy"
)

func BenchmarkDecideFiftyRules(b *testing.B) {
	var list []policy.Rule
	for i := range 50 {
		r := weakening(fmt.Sprintf(`git.protected && !git.merge_request && job.project_path.startsWith("company/p%d/") && !(claimed.image in ["a", "b"])`, i))
		r.Name = fmt.Sprint("rule-", i)
		list = append(list, r)
	}
	p, problems := policy.Compile(policy.Source{Default: base(), Rules: list})
	require.Empty(b, problems)
	job := &gitlab.JobResponse{ID: 1}
	job.GitInfo.Protected, job.GitInfo.Ref, job.JobInfo.ProjectFullPath = ptr(true), ptr("main"), ptr("company/none/x")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Decide(b.Context(), policy.Facts{Job: job})
	}
}
