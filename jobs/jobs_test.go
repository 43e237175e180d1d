package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/joblog"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/store"
	"github.com/airlock-ci/airlock/policy"
	"github.com/airlock-ci/airlock/testing/fakes"
)

const response = `{"id": 7, "job_info": {"project_id": 42, "project_full_path": "group/project"},
	"git_info": {"repo_url": "http://gitlab-ci-token:secret@gitlab.example/group/project.git", "protected": true},
	"image": {"name": "busybox"}, "services": [{"name": "postgres:16"}]}`

type fixture struct {
	*jobs.Service
	world   *fakes.World
	journal jobs.Journal
	handle  gitlab.Handle
	log     bytes.Buffer
}

func newFixture(t *testing.T, change ...func(*jobs.Options)) *fixture {
	t.Helper()
	t.Cleanup(func() {
		// A test in a bubble is run by two goroutines more.
		goleak.VerifyNone(t, goleak.IgnoreAnyFunction("internal/synctest.Run"), goleak.IgnoreAnyFunction("testing/synctest.testingSynctestTest"))
	})
	f := &fixture{world: fakes.NewWorld(), journal: store.NewMemory(), handle: gitlab.NewHandle(7)}
	options := jobs.Options{
		Settings: jobs.Settings{
			Policy:              policy.Fixed{Level: isolation.ProcessLevel, Network: "nat", CacheScope: "project"},
			HelperImage:         "helper",
			GracefulKillTimeout: 50 * time.Millisecond,
			IdleTimeout:         time.Hour, OrphanTimeout: time.Hour,
		},
		Layers: f.world, Networks: f.world, Journal: f.journal, Logger: zerolog.Nop(),
		Runtimes: []isolation.Runtime{f.world.Runtime(isolation.ProcessLevel)},
		Version:  "test", Instance: "test",
	}
	for _, c := range change {
		c(&options)
	}
	var err error
	f.Service, err = jobs.New(options)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, f.Close(context.Background()))
		f.requireNothingLeft(t)
	})
	return f
}

// patientNetworks notes whether a sandbox lived when it was detached.
type patientNetworks struct {
	jobs.Networks
	runtime isolation.Runtime
	tooSoon bool
}

func (*patientNetworks) DetachesAfterSandbox() {}

func (p *patientNetworks) Detach(ctx context.Context, id string) error {
	ids, err := p.runtime.List(ctx)
	p.tooSoon = p.tooSoon || slices.Contains(ids, id)
	return errors.Join(err, p.Networks.Detach(ctx, id))
}

func TestPatientNetworksAreDetachedAfterTheSandbox(t *testing.T) {
	networks := &patientNetworks{}
	f := newFixture(t, func(o *jobs.Options) {
		networks.Networks, networks.runtime = o.Networks, o.Runtimes[0]
		o.Networks = networks
	})
	require.NoError(t, f.prepare())
	require.NoError(t, f.cleanup())
	require.False(t, networks.tooSoon)
}

// TestASandboxThatDoesNotEndKeepsWhatItHas: its network cannot be given back, its base must not be collected.
func TestASandboxThatDoesNotEndKeepsWhatItHas(t *testing.T) {
	for _, patient := range []bool{true, false} {
		f := newFixture(t, func(o *jobs.Options) {
			if patient {
				o.Networks = &patientNetworks{Networks: o.Networks, runtime: o.Runtimes[0]}
			}
		})
		require.NoError(t, f.prepare())
		f.world.Fail["destroy"] = errors.New("it hangs")
		require.ErrorContains(t, f.cleanup(), "ending the sandbox: it hangs")
		records, err := f.journal.Records(context.Background())
		require.NoError(t, err)
		require.Len(t, records, 1)
		id := records[0].ID
		want := []string{"lease " + id, "network " + id, "sandbox " + id, "scratch " + id}
		if !patient {
			want = []string{"lease " + id, "sandbox " + id}
		}
		require.Equal(t, want, f.world.Leftovers())
		require.Empty(t, f.Live(), "it is the reaper's")

		delete(f.world.Fail, "destroy") // what the reaper will do
		require.NoError(t, f.world.Runtime(isolation.ProcessLevel).Destroy(context.Background(), id))
		require.NoError(t, f.world.Detach(context.Background(), id))
		require.NoError(t, f.world.DestroyScratch(context.Background(), id))
		f.world.Release(id)
		require.NoError(t, f.journal.End(context.Background(), id))
	}
}

// stuckRuntime makes no sandbox, and what it began does not go.
type stuckRuntime struct{ isolation.Runtime }

func (stuckRuntime) Create(context.Context, isolation.Spec) (isolation.Sandbox, error) {
	return nil, errors.New("no answer")
}

func (stuckRuntime) Destroy(context.Context, string) error { return errors.New("it hangs") }

// TestASandboxThatWasNotFinishedIsEnded: what a failed start left keeps its network and base, too, until it is gone.
func TestASandboxThatWasNotFinishedIsEnded(t *testing.T) {
	f := newFixture(t, func(o *jobs.Options) {
		o.Networks = &patientNetworks{Networks: o.Networks, runtime: o.Runtimes[0]}
		o.Runtimes = []isolation.Runtime{stuckRuntime{o.Runtimes[0]}}
	})
	require.ErrorContains(t, f.prepare(), "no answer")
	_ = f.cleanup() // as the runner does; the failed preparation has ended the job already
	require.Empty(t, f.Live())
	records, err := f.journal.Records(context.Background())
	require.NoError(t, err)
	require.Len(t, records, 1)
	id := records[0].ID
	require.Equal(t, []string{"lease " + id, "network " + id, "scratch " + id}, f.world.Leftovers())

	require.NoError(t, f.world.Detach(context.Background(), id)) // what the reaper will do
	require.NoError(t, f.world.DestroyScratch(context.Background(), id))
	f.world.Release(id)
	require.NoError(t, f.journal.End(context.Background(), id))
}

func (f *fixture) prepare() error {
	return f.Prepare(context.Background(), &api.Prepare{Handle: string(f.handle), RunnerPID: os.Getpid()}, []byte(response), joblog.New(&f.log))
}

func (f *fixture) run(ctx context.Context, stage string, streams api.Streams) (int32, error) {
	if streams.Stdout == nil {
		streams.Stdout, streams.Stderr = io.Discard, io.Discard
	}
	return f.Run(ctx, &api.Run{Handle: string(f.handle), Stage: stage, RunnerPID: os.Getpid()}, []byte("true"), streams)
}

func (f *fixture) cleanup() error {
	return f.Cleanup(context.Background(), &api.Cleanup{Handle: string(f.handle)})
}

func (f *fixture) requireNothingLeft(t *testing.T) {
	t.Helper()
	require.Empty(t, f.world.Leftovers())
	records, err := f.journal.Records(context.Background())
	require.NoError(t, err)
	require.Empty(t, records)
	require.Empty(t, f.Live())
}

func TestAJobFromPrepareToCleanup(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.prepare())
	log := f.log.String()
	require.Contains(t, log, "process isolation")
	require.Contains(t, log, `because isolation = "process" in the runner's configuration`)
	require.Contains(t, log, "Image busybox, sha256:fake (pulled, 1.5 KiB)")
	require.Contains(t, log, "services are not started by this runner: postgres:16")

	f.world.Script = func(_ context.Context, spec isolation.ProcessSpec) int {
		require.Equal(t, "/builds/group/project", spec.Dir)
		if spec.Helper {
			return 11
		}
		return 22
	}
	for stage, want := range map[string]int32{"get_sources": 11, "build_script": 22, "step_script": 22, "anything_new": 22} {
		status, err := f.run(context.Background(), stage, api.Streams{})
		require.NoError(t, err)
		require.Equal(t, want, status, stage)
	}
	info, err := f.Inspect(context.Background(), "7")
	require.NoError(t, err)
	require.Equal(t, "idle", info.State)
	require.Equal(t, "process", info.Isolation)
	require.EqualValues(t, 1<<20, info.MemoryBytes)
	require.EqualValues(t, 4096, info.ScratchUsedBytes)
	list, err := f.List(context.Background())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.EqualValues(t, 1<<20, list[0].MemoryBytes)

	require.NoError(t, f.cleanup())
	f.requireNothingLeft(t)
	require.NoError(t, f.cleanup(), "a second cleanup has nothing to do")
	_, err = f.run(context.Background(), "after_script", api.Streams{})
	require.ErrorContains(t, err, "job 7 has no sandbox")
	require.Equal(t, fault.System, fault.ClassOf(err))
}

func TestAFailedPrepareLeavesNothingAndTellsWhoseFaultItIs(t *testing.T) {
	for operation, cause := range map[string]error{
		"base":    fault.Authorf("image not found"),
		"scratch": fault.Systemf("no space"),
		"network": fault.Systemf("no address"),
		"create":  errors.New("unclassified"),
	} {
		t.Run(operation, func(t *testing.T) {
			f := newFixture(t)
			f.world.Fail[operation] = cause
			err := f.prepare()
			require.ErrorIs(t, err, cause)
			require.Equal(t, fault.ClassOf(cause), fault.ClassOf(err))
			f.requireNothingLeft(t)

			delete(f.world.Fail, operation) // the runner tries again, with a new handle
			f.handle = gitlab.NewHandle(7)
			require.NoError(t, f.prepare())
		})
	}
}

func TestAMissingRuntimeIsNeverReplacedByAWeakerOne(t *testing.T) {
	f := newFixture(t, func(o *jobs.Options) { o.Settings.Policy = policy.Fixed{Level: isolation.HypervisorLevel} })
	err := f.prepare()
	require.ErrorContains(t, err, "no runtime for hypervisor isolation")
	require.Equal(t, fault.System, fault.ClassOf(err))
	f.requireNothingLeft(t)

	f = newFixture(t, func(o *jobs.Options) {
		o.Settings.Policy = policy.Fixed{Level: isolation.HypervisorLevel}
		o.Unavailable = map[isolation.Level]error{isolation.HypervisorLevel: fault.Adminf("no QEMU here")}
	})
	err = f.prepare()
	require.ErrorContains(t, err, "not run at a weaker level: no QEMU here")
	require.Equal(t, fault.System, fault.ClassOf(err), "another runner may have what this one lacks")
}

// needy is a runtime with a name and needs of its own.
type needy struct {
	isolation.Runtime
	name  string
	needs isolation.Needs
}

func (n needy) Name() string           { return n.name }
func (n needy) Needs() isolation.Needs { return n.needs }

// TestRuntimesThatNobodyCanChooseAreRefused: a decision names a level, so the second runtime of one would be chosen by the
// order of a list.
func TestRuntimesThatNobodyCanChooseAreRefused(t *testing.T) {
	world := fakes.NewWorld()
	process, hypervisor := world.Runtime(isolation.ProcessLevel), world.Runtime(isolation.HypervisorLevel)
	named := func(r isolation.Runtime, name string) isolation.Runtime { return needy{r, name, r.Needs()} }
	for want, runtimes := range map[string][]isolation.Runtime{
		`one and other both make sandboxes at level process`: {named(process, "one"), hypervisor, named(process, "other")},
		`two runtimes are called "same"`:                     {named(process, "same"), named(hypervisor, "same")},
		"the runtime mute does not say what it needs":        {needy{process, "mute", isolation.Needs{Root: isolation.RootLayers}}},
	} {
		_, err := jobs.New(jobs.Options{Layers: world, Networks: world, Journal: store.NewMemory(), Runtimes: runtimes})
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
	_, err := jobs.New(jobs.Options{Layers: world, Networks: world, Journal: store.NewMemory(), Runtimes: []isolation.Runtime{process, hypervisor}})
	require.NoError(t, err)
}

// TestJobsAreMadeOfWhatTheirRuntimeNeeds: what the level is called says nothing about it.
func TestJobsAreMadeOfWhatTheirRuntimeNeeds(t *testing.T) {
	disks := isolation.Needs{Root: isolation.RootDisk, Scratch: isolation.ScratchDisk, Network: isolation.NetworkTap}
	f := newFixture(t, func(o *jobs.Options) {
		o.Networks = &forms{Networks: o.Networks, t: t, want: isolation.NetworkTap}
		o.Runtimes = []isolation.Runtime{needy{o.Runtimes[0], "disks", disks}}
	})
	require.NoError(t, f.prepare())
	made := f.world.Created[0]
	require.NotEmpty(t, made.Image.Disk)
	require.NotEmpty(t, made.Helper.Disk)
	require.NotEmpty(t, made.ScratchDisk)
	require.Empty(t, made.CacheDir, "a runtime that takes no directory of the host")
}

// forms checks in which form a network is asked for.
type forms struct {
	jobs.Networks
	t    *testing.T
	want isolation.NetworkForm
}

func (f *forms) Attach(ctx context.Context, id, mode string, form isolation.NetworkForm) (isolation.Network, error) {
	require.Equal(f.t, f.want, form)
	return f.Networks.Attach(ctx, id, mode, form)
}

// A guest gets disks, and no directory of the host whatever the configuration says about caches.
func TestWhatTheLevelsAreMadeOf(t *testing.T) {
	made := func(level isolation.Level) isolation.Spec {
		f := newFixture(t, func(o *jobs.Options) {
			o.Settings.Policy = policy.Fixed{Level: level, Network: "nat", CacheScope: "project"}
			o.Runtimes = append(o.Runtimes, o.Layers.(*fakes.World).Runtime(isolation.HypervisorLevel))
		})
		require.NoError(t, f.prepare())
		require.Len(t, f.world.Created, 1)
		return f.world.Created[0]
	}
	container, guest := made(isolation.ProcessLevel), made(isolation.HypervisorLevel)
	require.NotEmpty(t, container.Image.Layers)
	require.NotEmpty(t, container.Helper.Layers)
	require.NotEmpty(t, container.ScratchDir)
	require.Contains(t, container.CacheDir, "project-42-protected")
	require.Empty(t, container.Image.Disk+container.Helper.Disk+container.ScratchDisk)

	require.NotEmpty(t, guest.Image.Disk)
	require.NotEmpty(t, guest.Helper.Disk)
	require.NotEmpty(t, guest.ScratchDisk)
	require.Empty(t, guest.Image.Layers)
	require.Empty(t, guest.Helper.Layers)
	require.Empty(t, guest.ScratchDir+guest.CacheDir)
}

// asked notes what was asked of layers.
type asked struct {
	jobs.Layers
	requests []jobs.BaseRequest
}

func (a *asked) Base(ctx context.Context, req jobs.BaseRequest, log *joblog.Log) (jobs.Base, error) {
	a.requests = append(a.requests, req)
	return a.Layers.Base(ctx, req, log)
}

func TestThePlatformThatAJobDemandsIsItsImages(t *testing.T) {
	layers := &asked{}
	f := newFixture(t, func(o *jobs.Options) {
		layers.Layers = o.Layers
		o.Layers = layers
	})
	response := `{"id":7,"image":{"name":"busybox","executor_opts":{"docker":{"platform":"linux/arm64","user":"x"},"kubernetes":{"user":""}}}}`
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(response), joblog.New(&f.log)))
	require.Equal(t, "linux/arm64", layers.requests[0].Platform)
	require.Empty(t, layers.requests[1].Platform, "the helper is this runner's")
}

func TestImagesAndPullPoliciesAreTheAdministrators(t *testing.T) {
	cases := map[string]struct {
		allowed, pull []string
		response      string
		want          string
	}{
		"not allowed":    {allowed: []string{"registry.example/**"}, want: `the image "busybox" is not one of the allowed images`},
		"negated":        {allowed: []string{"**", "!busybox"}, want: "not one of the allowed images"},
		"allowed":        {allowed: []string{"busy*"}},
		"only negations": {allowed: []string{"!evil/**"}},
		"a forbidden tag, implied": {
			allowed: []string{"127.0.0.1:5555/**", "!**/*:latest"}, response: `{"id":7,"image":{"name":"127.0.0.1:5555/lib/bb"}}`,
			want: `the image "127.0.0.1:5555/lib/bb" is not one of the allowed images: 127.0.0.1:5555/**, !**/*:latest; "!**/*:latest" forbids it`,
		},
		"a forbidden tag, by its digest": {
			allowed: []string{"**", "!debian:latest"}, response: `{"id":7,"image":{"name":"docker.io/debian:13@sha256:` + strings.Repeat("a", 64) + `"}}`,
			want: `"!debian:latest" forbids it, as what a digest names may have any tag`,
		},
		"another tag":                 {allowed: []string{"127.0.0.1:5555/**", "!**/*:latest"}, response: `{"id":7,"image":{"name":"127.0.0.1:5555/lib/bb:1"}}`},
		"a pattern that does nothing": {allowed: []string{"**", "!**:latest"}, want: `the pattern "!**:latest" has ** in "**:latest"`},
		"a password": {
			allowed: []string{"**"}, response: `{"id":7,"image":{"name":"me:geheim@registry.example.com/x"}}`,
			want: `the image "***@registry.example.com/x" is not one of the allowed images: **; it is not written as [registry/]repository[:tag][@digest]`,
		},
		"unreadable pattern":  {allowed: []string{"[", "**"}, want: "not one of the allowed images"},
		"pull policy refused": {pull: []string{"never"}, response: `{"id":7,"image":{"name":"busybox","pull_policy":["always"]}}`, want: `the pull policy "always"`},
		"no image":            {response: `{"id":7}`, want: "no image is named"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(o *jobs.Options) {
				o.Settings.Policy = policy.Fixed{Level: isolation.ProcessLevel, Images: c.allowed, PullPolicies: c.pull}
			})
			if c.response == "" {
				c.response = response
			}
			err := f.Prepare(context.Background(), &api.Prepare{Handle: string(f.handle)}, []byte(c.response), nil)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.Equal(t, fault.ExitBuildFailure, fault.ExitCode(err), "a retry cannot help")
		})
	}
}

func TestWhatThisRunnerDoesNotDoIsSaidAtPrepare(t *testing.T) {
	const head = `{"id": 7, "git_info": {"repo_url": "http://gitlab.example/group/project.git"}, `
	for rest, want := range map[string]string{
		`"image": {"name": "busybox", "entrypoint": ["/bin/sh", "-c", "secret"]}}`:                     "WARNING: image:entrypoint is not run by this runner",
		`"image": {"name": "busybox", "executor_opts": {"docker": {"user": "postgres"}}}}`:             `WARNING: image:docker:user is ignored by this runner: the job runs as the image's own USER, not as "postgres"`,
		`"image": {"name": "busybox"}, "services": [{"name": "a", "entrypoint": ["x"]}]}`:              "WARNING: services are not started by this runner: a",
		`"image": {"name": "busybox", "entrypoint": [""], "executor_opts": {"docker": {"user": ""}}}}`: "",
		`"image": {"name": "busybox", "entrypoint": null, "executor_opts": "odd"}, "run": ""}`:         "",
	} {
		f := newFixture(t)
		require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(head+rest), joblog.New(&f.log)), rest)
		require.Equal(t, want != "", strings.Contains(f.log.String(), "WARNING"), "%s: %s", rest, f.log.String())
		require.Contains(t, f.log.String(), want, rest)
		require.NotContains(t, f.log.String(), "secret")
		require.True(t, f.world.Created[0].Scripts, "an image without a shell cannot run a job")
		require.NoError(t, f.cleanup())
	}
	for _, run := range []string{`"[{\"name\":\"hello\",\"step\":\"./hello\"}]"`, `[{"name": "hello", "script": "true"}]`, `{"steps": []}`, `"x"`} {
		f := newFixture(t)
		err := f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(head+`"image": {"name": "busybox"}, "run": `+run+"}"), joblog.New(&f.log))
		require.ErrorContains(t, err, "the job has run: (CI/CD steps), which this runner cannot run", run)
		require.Equal(t, fault.Author, fault.ClassOf(err))
		require.Empty(t, f.world.Created)
	}
}

func TestCancelEndsTheStageAndLeavesTheSandbox(t *testing.T) {
	f := newFixture(t, func(o *jobs.Options) { o.Settings.GracefulKillTimeout = time.Hour })
	require.NoError(t, f.prepare())
	f.world.Script = func(ctx context.Context, _ isolation.ProcessSpec) int { <-ctx.Done(); return 0 }

	signals := make(chan int, 1)
	signals <- 15
	var stderr bytes.Buffer
	status, err := f.run(context.Background(), "build_script", api.Streams{Signals: signals, Stdout: io.Discard, Stderr: &stderr})
	require.NoError(t, err)
	require.EqualValues(t, 143, status)
	require.Empty(t, stderr.String())

	f.world.Script = func(context.Context, isolation.ProcessSpec) int { return 0 }
	status, err = f.run(context.Background(), "after_script", api.Streams{})
	require.NoError(t, err)
	require.Zero(t, status)
}

func TestAVanishedDriverEndsItsStage(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.prepare())
	f.world.Script = func(ctx context.Context, _ isolation.ProcessSpec) int { <-ctx.Done(); return 0 }
	ctx, vanish := context.WithCancelCause(context.Background())
	time.AfterFunc(10*time.Millisecond, func() { vanish(errors.New("connection lost")) })
	status, err := f.run(ctx, "build_script", api.Streams{})
	require.NoError(t, err)
	require.EqualValues(t, 137, status)
}

func TestCleanupBesideARunningStage(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.prepare())
	started := make(chan struct{})
	f.world.Script = func(ctx context.Context, _ isolation.ProcessSpec) int { close(started); <-ctx.Done(); return 0 }
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := f.run(context.Background(), "build_script", api.Streams{})
		require.ErrorContains(t, err, "the job was cleaned up")
		require.Equal(t, fault.System, fault.ClassOf(err))
	})
	<-started
	wg.Go(func() { require.NoError(t, f.cleanup()) })
	require.NoError(t, f.cleanup())
	wg.Wait()
	f.requireNothingLeft(t)
}

func TestWhatCannotBeDestroyedStaysJournaled(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.prepare())
	f.world.Fail["detach"] = errors.New("busy")
	err := f.cleanup()
	require.ErrorContains(t, err, "detaching the network: busy")
	require.Len(t, f.world.Leftovers(), 1, "all that can go is gone")
	records, _ := f.journal.Records(context.Background())
	require.Len(t, records, 1)
	require.Equal(t, []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer}, records[0].Effects)
	require.NotContains(t, fmt.Sprint(records), string(f.handle))

	delete(f.world.Fail, "detach") // what the reaper will do
	require.NoError(t, f.world.Detach(context.Background(), records[0].ID))
	require.NoError(t, f.journal.End(context.Background(), records[0].ID))
}

func TestHandlesAreTheOnlyKey(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.prepare())
	require.ErrorContains(t, f.prepare(), "prepared already")
	stranger := gitlab.NewHandle(7) // the right job id, another nonce
	_, err := f.Run(context.Background(), &api.Run{Handle: string(stranger)}, nil, api.Streams{})
	require.ErrorContains(t, err, "has no sandbox")
	require.NoError(t, f.Cleanup(context.Background(), &api.Cleanup{Handle: string(stranger)}))
	require.Len(t, f.Live(), 1)
	for _, bad := range []string{"", "7", "7-zz", "7-" + strings.Repeat("0", 32) + "\n"} {
		_, err := f.Run(context.Background(), &api.Run{Handle: bad}, nil, api.Streams{})
		require.ErrorContains(t, err, "AIRLOCK_JOB_HANDLE")
	}
	err = f.Prepare(context.Background(), &api.Prepare{Handle: string(gitlab.NewHandle(8))}, []byte(response), nil)
	require.ErrorContains(t, err, "belongs to job 8")
}

func TestOrphansAreEnded(t *testing.T) {
	f := newFixture(t, func(o *jobs.Options) { o.Settings.OrphanTimeout = 0 })
	require.NoError(t, f.prepare())
	f.SweepNow(time.Now().Add(time.Minute))
	require.Len(t, f.Live(), 1, "its runner, this process, lives")
	_, err := f.Run(context.Background(), &api.Run{Handle: string(f.handle), RunnerPID: 1 << 30}, nil, api.Streams{Stdout: io.Discard, Stderr: io.Discard})
	require.NoError(t, err)
	f.SweepNow(time.Now().Add(time.Minute))
	require.Empty(t, f.Live(), "its runner is gone")
}

// TestARunnerThatIsKilledLeavesItsDirectoryToTheReaper, with the user that the kernel named; one that nobody has seen
// live may live on in a container.
func TestARunnerThatIsKilledLeavesItsDirectoryToTheReaper(t *testing.T) {
	for _, seen := range []bool{true, false} {
		f := newFixture(t, func(o *jobs.Options) { o.Settings.OrphanTimeout = 0 })
		pid := int64(1 << 30)
		runner := exec.Command("sleep", "1000")
		require.NoError(t, runner.Start())
		if seen {
			pid = int64(runner.Process.Pid)
		}
		require.NoError(t, f.Prepare(context.Background(), &api.Prepare{
			Handle: string(f.handle), RunnerPID: int(pid), RunnerDir: "/tmp/custom-executor1", RunnerUID: 998,
		}, []byte(response), nil))
		require.NoError(t, runner.Process.Kill())
		_ = runner.Wait()
		f.SweepNow(time.Now().Add(time.Minute))
		require.Empty(t, f.Live())
		records, err := f.journal.Records(context.Background())
		require.NoError(t, err)
		if !seen {
			require.Empty(t, records)
			continue
		}
		require.Len(t, records, 1)
		require.Equal(t, "/tmp/custom-executor1", records[0].RunnerDir)
		require.EqualValues(t, 998, records[0].RunnerUID)
		require.Contains(t, records[0].Effects, jobs.EffectRunnerDir)
		require.NoError(t, f.journal.End(context.Background(), records[0].ID))
	}
}

func TestASandboxWithoutGitLab(t *testing.T) {
	f := newFixture(t)
	var got isolation.ProcessSpec
	f.world.Script = func(_ context.Context, spec isolation.ProcessSpec) int { got = spec; return 3 }
	var stderr bytes.Buffer
	status, err := f.Sandbox(context.Background(), &api.Sandbox{Image: "busybox", Command: []string{"id"}, Env: []string{"A=b"}},
		api.Streams{Stdout: io.Discard, Stderr: &stderr})
	require.NoError(t, err)
	require.EqualValues(t, 3, status)
	require.Equal(t, []string{"id"}, got.Args)
	require.False(t, f.world.Created[0].Scripts, "an image without a shell will do")
	require.Equal(t, "Pulled busybox\nPulled helper\n", stderr.String(), "of Airlock's own lines only the pull is told")
	f.requireNothingLeft(t)
}

// TestASandboxWithoutGitLabTellsOfWaitsAndWarnings: whatever their words are, and nothing else.
func TestASandboxWithoutGitLabTellsOfWaitsAndWarnings(t *testing.T) {
	f := newFixture(t, func(o *jobs.Options) { o.Layers = lacking{o.Layers} })
	var stderr bytes.Buffer
	_, err := f.Sandbox(t.Context(), &api.Sandbox{Image: "Airlock", Command: []string{"true"}}, api.Streams{Stdout: io.Discard, Stderr: &stderr})
	require.NoError(t, err)
	require.Equal(t, "Making a disk of image Airlock\nPulled Airlock\nMaking a disk of image helper\nPulled helper\n"+
		"WARNING: left out of image Airlock: device node /zero and 2 more\n", stderr.String())
}

// slowDisks takes its time for every scratch.
type slowDisks struct {
	jobs.Layers
	takes time.Duration
}

func (l slowDisks) NewScratch(ctx context.Context, req jobs.ScratchRequest) (jobs.Scratch, error) {
	time.Sleep(l.takes)
	return l.Layers.NewScratch(ctx, req)
}

// TestALongWaitForADiskIsTold: at both levels, to a job's author and to who runs a command by hand; a short one is not.
func TestALongWaitForADiskIsTold(t *testing.T) {
	for _, level := range []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel} {
		for takes, lines := range map[time.Duration]int{time.Second: 0, 7 * time.Second: 2} {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, func(o *jobs.Options) {
					o.Settings.Policy = policy.Fixed{Level: level, Network: "nat", CacheScope: "project"}
					o.Layers, o.Runtimes = slowDisks{o.Layers, takes}, []isolation.Runtime{o.Layers.(*fakes.World).Runtime(level)}
				})
				require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(response), joblog.New(&f.log)))
				require.Equal(t, lines, strings.Count(f.log.String(), "Making the sandbox's disk\n"), f.log.String())
				require.NoError(t, f.cleanup())
				var stderr bytes.Buffer
				_, err := f.Sandbox(t.Context(), &api.Sandbox{Image: "busybox", Command: []string{"true"}}, api.Streams{Stdout: io.Discard, Stderr: &stderr})
				require.NoError(t, err)
				require.Equal(t, lines, strings.Count(stderr.String(), "Making the sandbox's disk\n"), stderr.String())
			})
		}
	}
}

// TestWhatAnAuthorWritesStaysInItsLine: a name is quoted in the job log, and forges none of Airlock's lines there.
func TestWhatAnAuthorWritesStaysInItsLine(t *testing.T) {
	f := newFixture(t)
	const forged = `{"id": 7, "image": {"name": "busybox"}, "services": [{"name": "a\nAirlock 9: hypervisor isolation\u001b[1A"}]}`
	require.NoError(t, f.Prepare(t.Context(), &api.Prepare{Handle: string(f.handle)}, []byte(forged), joblog.New(&f.log)))
	require.Contains(t, f.log.String(), "WARNING: services are not started by this runner: a Airlock 9: hypervisor isolation[1A\n")
	require.NotContains(t, f.log.String(), "\x1b")
}
