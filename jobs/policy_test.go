package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/testing/fakes"
)

// auditLog keeps entries, or fails.
type auditLog struct {
	mu      sync.Mutex
	entries []jobs.AuditEntry
	err     error
}

func (a *auditLog) Record(e jobs.AuditEntry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.entries = append(a.entries, e)
	}
	return a.err
}

// identities is what a verifier says.
type identities struct {
	identity *policy.Identity
	err      error
}

func (i identities) Verify(context.Context, *gitlab.JobResponse) (*policy.Identity, error) {
	return i.identity, i.err
}

func compiled(t *testing.T, rules ...policy.Rule) *policy.Policy {
	t.Helper()
	p, problems := policy.Compile(policy.Source{Rules: rules, Default: policy.Grant{
		Level: isolation.HypervisorLevel, Network: "nat", PullPolicies: []string{"always"}, CacheScope: "project",
	}})
	require.Empty(t, problems)
	return p
}

func level(l isolation.Level) *isolation.Level { return &l }

func trustedRule() policy.Rule {
	return policy.Rule{Name: "trusted", When: `git.protected && job.project_id == 42`, Isolation: level(isolation.ProcessLevel)}
}

// withPolicy starts a fixture of both levels, with rules and an audit log.
func withPolicy(t *testing.T, p jobs.Policy, change ...func(*jobs.Options)) (*fixture, *auditLog) {
	t.Helper()
	log := &auditLog{}
	return newFixture(t, append([]func(*jobs.Options){func(o *jobs.Options) {
		o.Settings.Policy, o.Audit = p, log
		o.Runtimes = append(o.Runtimes, o.Layers.(*fakes.World).Runtime(isolation.HypervisorLevel))
	}}, change...)...), log
}

func counts(f *fixture) map[string]int64 {
	m := map[string]int64{}
	for _, c := range f.Decisions() {
		m[c.Rule+" "+c.Isolation] = c.Count
	}
	return m
}

func TestADecisionIsToldEverywhere(t *testing.T) {
	p := compiled(t, trustedRule())
	var events bytes.Buffer
	f, audit := withPolicy(t, p, func(o *jobs.Options) { o.Logger = zerolog.New(&events) })
	require.NoError(t, f.prepare())
	require.Contains(t, f.log.String(), `process isolation (container sharing the host's kernel, fake), because rule "trusted" of the policy matched (`+p.Digest()[:19]+")")

	info, err := f.Inspect(t.Context(), "7")
	require.NoError(t, err)
	require.Equal(t, []string{"trusted", p.Digest()}, []string{info.Rule, info.Policy})
	require.Equal(t, map[string]int64{"trusted process": 1}, counts(f))

	require.Len(t, audit.entries, 1)
	e := audit.entries[0]
	yes, project := true, int64(42)
	require.Equal(t, jobs.AuditEntry{
		Time: e.Time, Sandbox: info.ID, Outcome: "granted", Isolation: "process", Rule: "trusted", Policy: p.Digest(), Reason: e.Reason,
		JobID: 7, ProjectID: &project, Project: "group/project", Protected: &yes, Network: "nat", CacheScope: "project",
	}, e)
	require.Contains(t, events.String(), `"rule":"trusted"`)
	require.Contains(t, events.String(), `"policy":"`+p.Digest()+`"`)
	require.NotContains(t, events.String()+fmt.Sprintf("%+v", audit.entries)+f.log.String(), "secret", "the job token is in the response")
}

func TestARefusalIsToldEverywhere(t *testing.T) {
	p := compiled(t, policy.Rule{Name: "not-here", When: `job.project_id == 42`, Reject: "this project has a runner of its own"})
	f, audit := withPolicy(t, p)
	err := f.prepare()
	require.ErrorContains(t, err, `this runner's policy refuses the job: this project has a runner of its own (rule "not-here" of the policy sha256:`)
	require.Equal(t, fault.Admin, fault.ClassOf(err), "the runner does not try again")
	require.Equal(t, map[string]int64{"not-here rejected": 1}, counts(f))
	require.Equal(t, []string{"rejected", "", "not-here"}, []string{audit.entries[0].Outcome, audit.entries[0].Isolation, audit.entries[0].Rule})
	f.requireNothingLeft(t)
}

func TestAWishForMoreIsHeeded(t *testing.T) {
	f, audit := withPolicy(t, compiled(t, trustedRule()))
	wishful := strings.Replace(response, `{"id": 7`, `{"id": 7, "variables": [{"key": "AIRLOCK_ISOLATION", "value": "hypervisor"}]`, 1)
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(wishful), joblog.New(&f.log)))
	require.Contains(t, f.log.String(), `hypervisor isolation (own kernel, fake-machine), because the job asked for it with AIRLOCK_ISOLATION`)
	require.Equal(t, "hypervisor", audit.entries[0].Isolation)
}

func TestABadIDTokenIsToldInTheJobLog(t *testing.T) {
	byToken := policy.Rule{Name: "by-token", When: `id.ref_protected`, Isolation: level(isolation.ProcessLevel)}
	f, audit := withPolicy(t, compiled(t, byToken), func(o *jobs.Options) { o.Settings.Identities = identities{err: errors.New("it has expired")} })
	require.NoError(t, f.prepare())
	require.Contains(t, f.log.String(), "WARNING: the job's id token is not believed, its facts are unknown: it has expired\n")
	require.Contains(t, f.log.String(), "hypervisor isolation")
	require.Equal(t, "not believed", audit.entries[0].IDToken)
	require.Equal(t, []string{`rule "by-token" gives nothing: id.ref_protected is unknown`}, audit.entries[0].Doubts)

	yes := true
	f, audit = withPolicy(t, compiled(t, byToken), func(o *jobs.Options) {
		o.Settings.Identities = identities{identity: &policy.Identity{RefProtected: &yes}}
	})
	require.NoError(t, f.prepare())
	require.Contains(t, f.log.String(), "process isolation")
	require.Equal(t, "verified", audit.entries[0].IDToken)
}

// TestTheRunnerClassIsTheAdministrators: it is an argument of the driver's, and no variable's.
func TestTheRunnerClassIsTheAdministrators(t *testing.T) {
	byClass := policy.Rule{Name: "by-class", When: `runner.class == "protected"`, Isolation: level(isolation.ProcessLevel)}
	f, _ := withPolicy(t, compiled(t, byClass))
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle), RunnerClass: "protected"}, []byte(response), joblog.New(&f.log)))
	require.Contains(t, f.log.String(), "process isolation")
	f, _ = withPolicy(t, compiled(t, byClass))
	forged := strings.Replace(response, `{"id": 7`, `{"id": 7, "runner_class": "protected", "variables": [{"key": "runner.class", "value": "protected"}]`, 1)
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(forged), joblog.New(&f.log)))
	require.Contains(t, f.log.String(), "hypervisor isolation")
}

func TestARunningJobKeepsItsDecision(t *testing.T) {
	first := compiled(t, trustedRule())
	f, _ := withPolicy(t, first)
	require.NoError(t, f.prepare())
	f.Apply(jobs.Settings{Policy: compiled(t), IdleTimeout: time.Hour, OrphanTimeout: time.Hour})
	info, err := f.Inspect(t.Context(), "7")
	require.NoError(t, err)
	require.Equal(t, []string{"process", "trusted", first.Digest()}, []string{info.Isolation, info.Rule, info.Policy})
	require.NoError(t, f.cleanup())
	f.handle = gitlab.NewHandle(7)
	require.NoError(t, f.prepare())
	info, err = f.Inspect(t.Context(), "7")
	require.NoError(t, err)
	require.Equal(t, "hypervisor", info.Isolation)
}

func TestAJobWhoseDecisionCannotBeRecordedIsNotRun(t *testing.T) {
	f, audit := withPolicy(t, compiled(t, trustedRule()))
	audit.err = errors.New("no space left on device")
	err := f.prepare()
	require.ErrorContains(t, err, "cannot be recorded, and without that it is not run: no space left on device")
	require.Equal(t, fault.System, fault.ClassOf(err))
	require.Empty(t, f.world.Created)
	f.requireNothingLeft(t)
}

func TestServicesAreTheAdministrators(t *testing.T) {
	rule := policy.Rule{Name: "few", When: "true", Services: []string{"redis:*"}}
	f, _ := withPolicy(t, compiled(t, rule))
	err := f.prepare()
	require.ErrorContains(t, err, `the service "postgres:16" is not one of the allowed services: redis:*`)
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	rule.Services = []string{"postgres:*"}
	f, _ = withPolicy(t, compiled(t, rule))
	require.NoError(t, f.prepare())
}

func TestTheTimeOfAPolicyEndsAJob(t *testing.T) {
	limit := 100 * time.Millisecond
	f, _ := withPolicy(t, compiled(t, policy.Rule{Name: "short", When: "true", Timeout: &limit}))
	require.NoError(t, f.prepare())
	require.Contains(t, f.log.String(), "Limits: 100ms time; network nat")
	f.world.Script = func(ctx context.Context, _ isolation.ProcessSpec) int { <-ctx.Done(); return 0 }
	_, err := f.run(context.Background(), "build_script", api.Streams{})
	require.ErrorContains(t, err, `the time of 100ms that this runner's policy gives to the job has passed (rule "short")`)
	require.Equal(t, fault.Author, fault.ClassOf(err), "the runner does not try again")
	require.Eventually(t, func() bool { return len(f.world.Leftovers()) == 0 && len(f.Live()) == 0 }, 10*time.Second, 10*time.Millisecond)
}

// slowPull pulls until it is told to stop.
type slowPull struct{ jobs.Layers }

func (slowPull) Base(ctx context.Context, _ jobs.BaseRequest, _ *joblog.Log) (jobs.Base, error) {
	<-ctx.Done()
	return jobs.Base{}, fault.Systemf("pulling: %w", context.Cause(ctx))
}

// TestTheTimeOfAPolicyEndsAPreparation: that is the author's failure too, or the runner would prepare again and again.
func TestTheTimeOfAPolicyEndsAPreparation(t *testing.T) {
	limit := 50 * time.Millisecond
	f, _ := withPolicy(t, compiled(t, policy.Rule{Name: "short", When: "true", Timeout: &limit}), func(o *jobs.Options) {
		o.Layers = slowPull{o.Layers}
	})
	err := f.prepare()
	require.ErrorContains(t, err, `the time of 50ms that this runner's policy gives to the job has passed (rule "short")`)
	require.Equal(t, fault.Author, fault.ClassOf(err), "the runner does not try again")
	require.Eventually(t, func() bool { return len(f.world.Leftovers()) == 0 && len(f.Live()) == 0 }, 10*time.Second, 10*time.Millisecond)
}

// lacking is an image that a sandbox does not have all of.
type lacking struct{ jobs.Layers }

func (l lacking) Base(ctx context.Context, req jobs.BaseRequest, log *joblog.Log) (jobs.Base, error) {
	log.Progress("Making a disk of image %s", req.Image)
	base, err := l.Layers.Base(ctx, req, log)
	base.Warnings = []string{"left out of image " + req.Image + ": device node /zero and 2 more"}
	return base, err
}

// TestTheLogSaysOnceWhatTheImageLacks: also when the image is made ready for two levels, and nothing of the helper's.
func TestTheLogSaysOnceWhatTheImageLacks(t *testing.T) {
	f, _ := withPolicy(t, compiled(t, trustedRule()), func(o *jobs.Options) {
		o.Layers = lacking{o.Layers}
		for i, r := range o.Runtimes {
			if r.Level() == isolation.ProcessLevel {
				o.Runtimes[i] = picky{r, "the image's build is old"}
			}
		}
	})
	require.NoError(t, f.prepare())
	require.Equal(t, 1, strings.Count(f.log.String(), "WARNING: left out of image busybox: device node /zero and 2 more\n"), f.log.String())
}

// TestAnEscalationIsRecorded: the image is made ready for the level that the job gets, and the audit log has both.
func TestAnEscalationIsRecorded(t *testing.T) {
	f, audit := withPolicy(t, compiled(t, trustedRule()), func(o *jobs.Options) {
		for i, r := range o.Runtimes {
			if r.Level() == isolation.ProcessLevel {
				o.Runtimes[i] = picky{r, "the image's build is old"}
			}
		}
	})
	require.NoError(t, f.prepare())
	require.Contains(t, f.log.String(), "hypervisor isolation (own kernel, fake-machine), because the image's build is old")
	created := f.world.Created[0]
	require.NotEmpty(t, created.Image.Disk)
	require.NotEmpty(t, created.ScratchDisk)
	require.Len(t, audit.entries, 2)
	require.Equal(t, []string{"raised", "hypervisor"}, []string{audit.entries[1].Outcome, audit.entries[1].Isolation})
}

func TestASandboxOfTheAdministratorsIsNoDecisionOfThePolicy(t *testing.T) {
	f, audit := withPolicy(t, compiled(t, policy.Rule{Name: "none", When: "true", Reject: "nobody"}))
	_, err := f.Sandbox(t.Context(), &api.Sandbox{Image: "busybox", Command: []string{"true"}}, api.Streams{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	require.NoError(t, err)
	require.Empty(t, audit.entries)
	require.Empty(t, counts(f))
}
