package hcs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// TestScenarios plays what is known to go wrong with the compute service, one by one: the fault, what jobs see of it,
// and that nothing is left. The sources of the faults stand in docs/windows.md.
func TestScenarios(t *testing.T) {
	process, hypervisor := isolation.ProcessLevel, isolation.HypervisorLevel
	for _, test := range []struct {
		name   string
		level  isolation.Level
		faults []fakeFault
		// fails is a part of the error of Create; empty: it succeeds.
		fails string
		class fault.Class
		// calls are how often something is called, by the beginning of its line.
		calls map[string]int
		stuck int
	}{
		{name: "activate-0x20-once", level: process, faults: []fakeFault{{call: "Activate", times: 1, code: 0x80070020}},
			calls: map[string]int{"Activate": 2, "DetachDisk": 1, "CreateScratch": 1}},
		{name: "activate-0x20-always", level: process, faults: []fakeFault{{call: "Activate", times: -1, code: codeSharing}},
			fails: "a virus scanner", calls: map[string]int{"Activate": 2, "Create al": 0}},
		{name: "activate-0x15-four-times", level: process, faults: []fakeFault{{call: "Activate", times: 4, code: 0x80070015}},
			calls: map[string]int{"Activate": 5, "CreateScratch": 1}},
		{name: "prepare-0x48f-twice", level: process, faults: []fakeFault{{call: "Prepare", times: 2, code: codeNotConnected}},
			calls: map[string]int{"Prepare": 3, "Activate": 3}},
		{name: "activate-0x15-always", level: process, faults: []fakeFault{{call: "Activate", times: -1, code: codeNotReady}},
			fails: "mounting the scratch", calls: map[string]int{"Activate": 5, "CreateScratch": 1}},
		{name: "prepare-timeout-once", level: process, faults: []fakeFault{{call: "Prepare", times: 1, code: 0x800705B4}},
			calls: map[string]int{"CreateScratch": 2, "Start": 1}},
		{name: "prepare-timeout-always", level: process, faults: []fakeFault{{call: "Prepare", times: -1, code: codeTimeout}},
			fails: "0x5B4", calls: map[string]int{"CreateScratch": 2, "Start": 0}},
		{name: "start-lost-once", level: process, faults: []fakeFault{{call: "Start", times: 1, err: errNoAnswer}},
			calls: map[string]int{"CreateScratch": 2, "Start": 2}},
		{name: "start-lost-once-in-a-machine", level: hypervisor, faults: []fakeFault{{call: "Start", times: 1, err: errNoAnswer}},
			calls: map[string]int{"CreateScratch": 2, "Start": 2, "Activate": 0}},
		{name: "start-lost-always", level: hypervisor, faults: []fakeFault{{call: "Start", times: -1, err: errNoAnswer}},
			fails: "did not answer in time", calls: map[string]int{"Start": 2}},
		{name: "start-unexpected-exit", level: hypervisor, faults: []fakeFault{{call: "Start", times: -1, code: 0xC0370106}},
			fails: "too little memory", calls: map[string]int{"Start": 1, "CreateScratch": 1}},
		{name: "create-refused", level: process, faults: []fakeFault{{call: "Create al", times: -1, code: 0x8037010D}},
			fails: "creating the container", calls: map[string]int{"Create al": 1}},
		{name: "create-process-fails", level: process, faults: []fakeFault{{call: "CreateProcess", times: -1, code: 0x80070005}},
			fails: "starting cmd.exe", calls: map[string]int{"Terminate": 1}},
		{name: "terminate-hangs-at-once", level: process, faults: []fakeFault{
			{call: "CreateProcess", times: 1, code: codeAccessDenied}, {call: "Terminate", times: -1, code: 0x8037010A}},
			fails: "starting cmd.exe", stuck: 1},
		{name: "rename-denied-twice", level: process, faults: []fakeFault{
			{call: "Start", times: 1, code: codeUnexpectedExit}, {call: "Rename", times: 2, code: codeAccessDenied}},
			fails: "ended while it was starting", calls: map[string]int{"Rename": 3, "DetachDisk": 1}},
		{name: "rename-denied-always", level: process, faults: []fakeFault{
			{call: "Start", times: 1, code: codeUnexpectedExit}, {call: "Rename", times: -1, code: codeAccessDenied}},
			fails: "ended while it was starting", stuck: 1},
		{name: "destroy-denied-3x", level: process, faults: []fakeFault{
			{call: "Start", times: 1, code: codeUnexpectedExit}, {call: "DestroyLayer", times: 3, code: codeAccessDenied}},
			fails: "ended while it was starting", calls: map[string]int{"Rename": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			for _, f := range test.faults {
				r.fake.fail(f)
			}
			spec := r.spec()
			made, err := r.Runtime(test.level).Create(t.Context(), spec)
			if test.fails == "" {
				require.NoError(t, err)
				require.NoError(t, made.Destroy(t.Context()))
			} else {
				require.ErrorContains(t, err, test.fails)
				require.Equal(t, test.class, fault.ClassOf(err))
			}
			for call, n := range test.calls {
				require.Equal(t, n, r.fake.count(call), "%s in %q", call, r.fake.log())
			}
			require.Len(t, r.Stuck(), test.stuck)
			if test.stuck > 0 {
				// Another job is not held up, and when the service comes to its senses the reaper's next try succeeds.
				r.fake.heal()
				r.create(process, r.spec())
				require.NoError(t, r.Runtime(test.level).Destroy(t.Context(), spec.ID))
			}
			require.Empty(t, r.Stuck())
			r.requireNothing(spec)
			r.requireEmptyTrash()
			require.Zero(t, r.fake.count("Shutdown"))
		})
	}
}

// start-hangs: the call itself never returns, as when a callback of the service gets lost.
func TestStartThatHangs(t *testing.T) {
	r := newRig(t)
	hang := make(chan struct{})
	defer close(hang)
	r.fake.fail(fakeFault{call: "Start", times: 1, hang: hang})
	spec := r.spec()
	b := r.create(isolation.ProcessLevel, spec)
	require.Equal(t, spec.ID+".2", b.name)
}

// prepare-hangs: hcsshim mounts one layer at a time, so one call that hangs lets all others hang. No more jobs are taken
// until it returns.
func TestMountThatHangs(t *testing.T) {
	r := newRig(t)
	r.timing.call = 500 * time.Millisecond
	hang := make(chan struct{})
	r.fake.fail(fakeFault{call: "Prepare", times: 2, hang: hang})
	for range 2 {
		spec := r.spec()
		_, err := r.Runtime(isolation.ProcessLevel).Create(t.Context(), spec)
		require.ErrorIs(t, err, errNoAnswer)
		r.requireNothing(spec)
	}
	require.Len(t, r.Stuck(), 2)
	_, err := r.Runtime(isolation.ProcessLevel).Create(t.Context(), r.spec())
	require.ErrorContains(t, err, "takes no more jobs")
	close(hang)
	require.Eventually(t, func() bool { return len(r.Stuck()) == 0 }, 10*time.Second, time.Millisecond)
	r.create(isolation.ProcessLevel, r.spec())
}

// create-late: a system that comes into being after we gave up is ended when it does.
func TestCreateThatIsLate(t *testing.T) {
	r := newRig(t)
	hang := make(chan struct{})
	r.fake.fail(fakeFault{call: "Create al", times: 1, hang: hang})
	spec := r.spec()
	r.create(isolation.HypervisorLevel, spec)
	close(hang)
	require.Eventually(t, func() bool {
		r.fake.mu.Lock()
		defer r.fake.mu.Unlock()
		s := r.fake.systems[spec.ID+".1"]
		return s != nil && s.isDone()
	}, 10*time.Second, time.Millisecond)
}

// terminate-refused: containers that cannot be ended go into quarantine, and their scratches stay untouched.
func TestSystemThatDoesNotEnd(t *testing.T) {
	r := newRig(t)
	made := make([]isolation.Sandbox, 2)
	var specs []isolation.Spec
	for i := range made {
		specs = append(specs, r.spec())
		var err error
		made[i], err = r.Runtime(isolation.ProcessLevel).Create(t.Context(), specs[i])
		require.NoError(t, err)
	}
	r.fake.fail(fakeFault{call: "Terminate", times: -1, code: 0x8037010A})
	for i, b := range made {
		began := time.Now()
		err := b.Destroy(t.Context())
		require.ErrorContains(t, err, "terminating the container")
		require.Less(t, time.Since(began), 10*time.Second)
		require.DirExists(t, filepath.Join(specs[i].ScratchDir, specs[i].ID+".1"))
		require.Zero(t, r.fake.count("Unprepare "+specs[i].ID))
	}
	// As many are stuck as may be: no more jobs, with the reason.
	_, err := r.Runtime(isolation.HypervisorLevel).Create(t.Context(), r.spec())
	require.ErrorContains(t, err, "takes no more jobs")
	require.Equal(t, fault.System, fault.ClassOf(err))
	ids, err := r.Runtime(isolation.ProcessLevel).List(t.Context())
	require.NoError(t, err)
	require.Contains(t, ids, specs[0].ID)

	r.fake.heal()
	for _, spec := range specs {
		require.NoError(t, r.Runtime(isolation.ProcessLevel).Destroy(t.Context(), spec.ID))
		r.requireNothing(spec)
	}
	r.create(isolation.HypervisorLevel, r.spec())
}

// end-hangs: the service takes the order and never tells the end.
func TestEndThatIsNeverTold(t *testing.T) {
	r := newRig(t)
	spec := r.spec()
	made, err := r.Runtime(isolation.ProcessLevel).Create(t.Context(), spec)
	require.NoError(t, err)
	hang := make(chan struct{})
	r.fake.fail(fakeFault{call: "Wait " + spec.ID, times: 1, hang: hang})
	require.ErrorContains(t, made.Destroy(t.Context()), "does not end")
	require.Contains(t, r.Stuck(), spec.ID+".1")
	close(hang)
	require.Eventually(t, func() bool { return len(r.Stuck()) == 0 }, 10*time.Second, time.Millisecond, "the end came after all")
	require.NoError(t, made.Destroy(t.Context()))
	r.requireNothing(spec)
}

// enumerate-fails: without the list of systems nothing is removed: the scratch might be in use.
func TestSystemsCannotBeListed(t *testing.T) {
	r := newRig(t)
	spec := r.spec()
	made, err := r.Runtime(isolation.ProcessLevel).Create(t.Context(), spec)
	require.NoError(t, err)
	r.fake.fail(fakeFault{call: "Systems", times: 1, err: errServiceLost})
	require.ErrorIs(t, made.Destroy(t.Context()), errServiceLost)
	require.Zero(t, r.fake.count("Unprepare"))
	require.NoError(t, made.Destroy(t.Context()))
	r.requireNothing(spec)
}

// executor-crash: everything of a dead executor goes in the start-up sweep, whatever it was doing.
func TestSweepAfterCrash(t *testing.T) {
	for _, level := range []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel} {
		r := newRig(t)
		living, half, trash := r.spec(), r.spec(), filepath.Join(r.trashDir(), "al-0.1"+removing)
		_, err := r.Runtime(level).Create(t.Context(), living)
		require.NoError(t, err)
		require.NoError(t, r.claim(half.ID, record{level, half.ScratchDir}))
		require.NoError(t, r.fake.CreateScratch(filepath.Join(half.ScratchDir, half.ID+".1"), r.base))
		if level == isolation.ProcessLevel {
			require.NoError(t, r.fake.Activate(filepath.Join(half.ScratchDir, half.ID+".1")))
		}
		require.NoError(t, os.Mkdir(trash, 0o700))
		_, err = r.fake.Create("stray", Document{Owner: owner})
		require.NoError(t, err)
		_, err = r.fake.Create("docker-1", Document{Owner: "docker"})
		require.NoError(t, err)

		r.reopen()
		<-r.Sweep()
		r.requireNothing(living)
		r.requireNothing(half)
		r.requireEmptyTrash()
		require.True(t, r.fake.systems["stray"].isDone())
		require.False(t, r.fake.systems["docker-1"].isDone(), "what others own stays")
	}
}

// vmcompute-restarts: the status of a running stage is unknown, and the sandbox can still be removed.
func TestServiceRestart(t *testing.T) {
	r := newRig(t)
	b := r.create(isolation.ProcessLevel, r.spec())
	r.fake.fail(fakeFault{call: "WaitProcess", times: 1, err: errServiceLost})
	p, err := b.Start(t.Context(), isolation.ProcessSpec{Script: []byte("exit 0")})
	require.NoError(t, err)
	_, err = p.Wait()
	require.ErrorIs(t, err, errServiceLost)
	require.Equal(t, fault.System, fault.ClassOf(err))
}

func TestCallerGivesUp(t *testing.T) {
	r := newRig(t)
	why := errors.New("the caller gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	spec := r.spec()
	_, err := r.Runtime(isolation.ProcessLevel).Create(ctx, spec)
	require.ErrorIs(t, err, why)
	r.requireNothing(spec)
}
