package main

import (
	"context"
	"fmt"
	"time"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

const (
	policyRules = 50
	// decisionBudget is what one decision by that many rules may take.
	decisionBudget = 50 * time.Microsecond
	// decisionsARound are measured together: one is too short for the clock.
	decisionsARound = 1000
)

// decisions measures the policy alone, with rules of which none matches, so that all are tried.
func (b *bench) decisions(ctx context.Context) ([]*section, error) {
	p, facts, err := manyRules()
	if err != nil {
		return nil, err
	}
	s := &section{title: fmt.Sprintf("%d decisions by %d rules", decisionsARound, policyRules)}
	budget := s.row(fmt.Sprintf("%d times %s", decisionsARound, decisionBudget), nil, 0)
	taken := s.row("decisions", budget, 1)
	parsed := s.row("the same, with parsing the job response", budget, 0)
	s.note("none of the rules matches, so that each is tried; the job is that of a recorded response's size. The first " +
		"row is no measurement: it is what a decision may take.")
	response, err := gitlabtest.Response(gitlabtest.Job{ID: 1, Image: "busybox"})
	if err != nil {
		return nil, err
	}
	repeat := func(row *series, decide func() error) turn {
		return func(context.Context) error {
			start := time.Now()
			for range decisionsARound {
				if err := decide(); err != nil {
					return err
				}
			}
			row.add(time.Since(start))
			return nil
		}
	}
	return []*section{s}, rounds(ctx, b.rounds, []turn{
		func(context.Context) error { budget.add(decisionsARound * decisionBudget); return nil },
		repeat(taken, func() error { _, err := p.Decide(ctx, facts); return err }),
		repeat(parsed, func() error {
			job, err := gitlab.ParseJobResponse(response)
			if err != nil {
				return err
			}
			_, err = p.Decide(ctx, policy.Facts{Job: job})
			return err
		}),
	}, s)
}

// manyRules is a policy of rules as people write them, and a job that gets to the last.
func manyRules() (*policy.Policy, policy.Facts, error) {
	process := isolation.ProcessLevel
	src := policy.Source{Default: policy.Grant{Level: isolation.HypervisorLevel, Network: "nat", PullPolicies: []string{"always"}, CacheScope: "project"}}
	for i := range policyRules {
		src.Rules = append(src.Rules, policy.Rule{
			Name: fmt.Sprint("rule-", i), Isolation: &process,
			When: fmt.Sprintf(`git.protected && !git.merge_request && job.project_path.startsWith("company/team-%d/") && !(claimed.image in ["a", "b"])`, i),
		})
	}
	p, problems := policy.Compile(src)
	if p == nil {
		return nil, policy.Facts{}, fmt.Errorf("compiling the rules: %s", problems[0].Message)
	}
	response, err := gitlabtest.Response(gitlabtest.Job{ID: 1, Image: "busybox", Protected: new(true)})
	if err != nil {
		return nil, policy.Facts{}, err
	}
	job, err := gitlab.ParseJobResponse(response)
	return p, policy.Facts{Job: job}, err
}
