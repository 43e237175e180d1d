package conformance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// RuntimeEnv is one runtime with what the suite needs around it. The roots are those of testing/rootfs: the image's
// configuration sets PATH and GREETING=image, and no user; the helper root's sets PATH and GREETING=helper, and
// only the helper root has the file HelperMarker.
type RuntimeEnv struct {
	// New returns another instance over the same state, as an executor gets one after its restart.
	New func(t testing.TB) isolation.Runtime
	// Spec returns a specification with a new id, a scratch of its own, image, helper, the hostname "sandbox" and
	// no network and no limits.
	Spec func(t testing.TB) isolation.Spec
	// BaseFingerprint changes when anything in the shared base changes: content, owners, modes, names.
	BaseFingerprint func(t testing.TB) string
	// ScratchHas says whether what a sandbox wrote to a path of its image is in its scratch.
	ScratchHas func(t testing.TB, spec isolation.Spec, path string) bool
	// Leftovers lists what the host still has of a sandbox, one line for each thing.
	Leftovers func(t testing.TB, id string) []string
	// Core runs only the subtests in which the runtime has a part, and not those that the agent passes alone: for the
	// second OCI runtime behind one implementation.
	Core bool
	// Deviations names the subtests that this runtime is known to fail, with the reason. They are run all the same:
	// one that passes fails the suite.
	Deviations map[string]string
}

// HelperMarker is a file that only the helper root has.
const HelperMarker = "/helper-marker"

// runtimeTimeout bounds each step of the suite; slow runtimes (emulated machines) need most of it.
const runtimeTimeout = time.Minute

// TestRuntime checks that a runtime keeps the promises of isolation.Runtime, Sandbox and Process. newEnv is called
// once for each subtest.
func TestRuntime(t *testing.T, newEnv func(t testing.TB) RuntimeEnv) {
	tests := []struct {
		name string
		core bool
		run  func(t testing.TB, env RuntimeEnv)
	}{
		{"life cycle", true, testLifeCycle},
		{"destroy beside a running process", true, testDestroyRunning},
		{"destroy by id in a new instance", true, testDestroyByID},
		{"create leaves nothing when it fails", true, testCreateFails},
		{"an id is used once", true, testIDTaken},
		{"exit codes", true, testExitCodes},
		{"arguments and look-up", false, testArguments},
		{"environment", false, testEnvironment},
		{"working directory", false, testDirectory},
		{"users", false, testUsers},
		{"scripts", false, testScripts},
		{"stdin", false, testStdin},
		{"output apart and exact", false, testOutput},
		{"output that nobody takes", false, testOutputRefused},
		{"signal reaches the whole tree", false, testSignalTree},
		{"kill ends the whole tree", false, testKillTree},
		{"background processes end with their stage", false, testBackground},
		{"interactive processes outlive a stage", false, testInteractive},
		{"terminal", false, testTerminal},
		{"helper stages", true, testHelper},
		{"without a helper root", false, testNoHelper},
		{"writes go to the scratch", true, testScratch},
		{"names", true, testNames},
		{"no network", true, testNoNetwork},
		{"sandboxes do not see each other", true, testNeighbours},
		{"memory limit", true, testMemoryLimit},
		{"process limit", true, testProcessLimit},
		{"cpu limit", true, testCPULimit},
	}
	var subtests []subtest
	deviations := map[string]string{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			env := newEnv(t)
			if env.Core && !test.core {
				return
			}
			maps.Copy(deviations, env.Deviations)
			subtest{test.name, func(t testing.TB) { test.run(t, env) }}.attempt(t, env.Deviations)
		})
		subtests = append(subtests, subtest{name: test.name})
	}
	checkDeviations(t, subtests, deviations)
}

// box is a sandbox under test.
type box struct {
	isolation.Sandbox
	spec isolation.Spec
}

// newBox makes a sandbox and, at the end of the test, destroys it and checks that nothing of it is left.
func newBox(t testing.TB, env RuntimeEnv, edit ...func(*isolation.Spec)) box {
	t.Helper()
	spec := env.Spec(t)
	for _, e := range edit {
		e(&spec)
	}
	sandbox, err := env.New(t).Create(deadline(t), spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, sandbox.Destroy(context.Background()))
		require.Empty(t, env.Leftovers(t, spec.ID))
	})
	return box{sandbox, spec}
}

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), runtimeTimeout, fmt.Errorf("%s: the step took longer than %s", t.Name(), runtimeTimeout))
	t.Cleanup(cancel)
	return ctx
}

// result is how a process ended and what it wrote.
type result struct {
	isolation.Exit
	stdout, stderr string
}

// run runs a process to its end.
func (b box) run(t testing.TB, spec isolation.ProcessSpec) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	spec.Stdout, spec.Stderr = &stdout, &stderr
	exit, err := wait(t, b.start(t, spec))
	require.NoError(t, err)
	return result{exit, stdout.String(), stderr.String()}
}

// shell runs a line of shell and returns its output, which must come with status 0.
func (b box) shell(t testing.TB, line string) string {
	t.Helper()
	r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", line}})
	require.Zero(t, r.Code, "%s\nstdout: %s\nstderr: %s", line, r.stdout, r.stderr)
	return r.stdout
}

func (b box) start(t testing.TB, spec isolation.ProcessSpec) isolation.Process {
	t.Helper()
	p, err := b.Start(deadline(t), spec)
	require.NoError(t, err)
	return p
}

// wait is Process.Wait with the suite's deadline.
func wait(t testing.TB, p isolation.Process) (isolation.Exit, error) {
	t.Helper()
	type outcome struct {
		exit isolation.Exit
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		exit, err := p.Wait()
		done <- outcome{exit, err}
	}()
	select {
	case o := <-done:
		return o.exit, o.err
	case <-time.After(runtimeTimeout):
		require.FailNow(t, "the process does not end")
		return isolation.Exit{}, nil
	}
}

// running says whether a process with this word in its command line lives in the sandbox.
func (b box) running(t testing.TB, word string) bool {
	t.Helper()
	// The word is split in two so that the search does not find itself.
	return strings.TrimSpace(b.shell(t, fmt.Sprintf("ps -o args | grep -c '[%c]%s' || true", word[0], word[1:]))) != "0"
}
