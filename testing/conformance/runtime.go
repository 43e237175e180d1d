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
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// RuntimeEnv is one runtime with what the suite needs around it.
//
// On Linux the roots are those of testing/rootfs: the image's configuration sets PATH and GREETING=image, and no user; the
// helper root's sets PATH and GREETING=helper, and only the helper root has the file HelperMarker. On Windows the image is
// a Windows one with GREETING=image, and the helper directory holds the test's own program as tool.exe (WindowsTool).
type RuntimeEnv struct {
	// New returns another instance over the same state, as an executor gets one after its restart.
	New func(t testing.TB) isolation.Runtime
	// Spec returns a specification with a new id, a scratch of its own, image, helper, the hostname "sandbox" and
	// no network and no limits.
	Spec func(t testing.TB) isolation.Spec
	// Image returns the image of Spec after a change of its root, a directory (Linux).
	Image func(t testing.TB, change func(root string)) isolation.Root
	// Rlimits are the hard limits that processes have to have, by the options of the shell's ulimit (Linux).
	Rlimits func(t testing.TB) map[string]string
	// Quick says that an image and a sandbox more cost little: all variants of odd images are tried, not the telling ones.
	Quick bool
	// BaseFingerprint changes when anything in the shared base changes: content, owners, modes, names.
	BaseFingerprint func(t testing.TB) string
	// ScratchHas reports whether what a sandbox wrote to a path of its image is in its scratch (Linux).
	ScratchHas func(t testing.TB, spec isolation.Spec, path string) bool
	// Leftovers lists what the host still has of a sandbox, one line for each thing.
	Leftovers func(t testing.TB, id string) []string
	// Windows says that sandboxes are Windows containers, and what of them differs from host to host; nil: Linux.
	Windows *Windows
	// Core runs only the subtests in which the runtime has a part, and not those that the agent passes alone: for the
	// second OCI runtime behind one implementation.
	Core bool
	// Deviations names the subtests that this runtime is known to fail, with the reason. They are run all the same:
	// one that passes fails the suite.
	Deviations map[string]string
}

// HelperMarker is a file that only the helper root has.
const HelperMarker = "/helper-marker"

// runtimeTimeout bounds each step of the suite. Running out of memory takes an emulated machine half a minute on a good host.
const runtimeTimeout = 5 * time.Minute

// promise is one subtest. Core ones are those in which a runtime has a part, and not its agent alone.
type promise struct {
	name string
	core bool
	run  func(t testing.TB, env RuntimeEnv)
}

// The promises that mean the same on every system; what they make sandboxes do is said by system.
var promises = []promise{
	{"life cycle", true, testLifeCycle},
	{"destroy beside a running process", true, testDestroyRunning},
	{"destroy by id in a new instance", true, testDestroyByID},
	{"create leaves nothing when it fails", true, testCreateFails},
	{"an id is used once", true, testIDTaken},
	{"exit codes", true, testExitCodes},
	{"arguments", false, testArguments},
	{"environment", false, testEnvironment},
	{"working directory", false, testDirectory},
	{"scripts", false, testScripts},
	{"stdin", false, testStdin},
	{"output apart and exact", false, testOutput},
	{"output that nobody takes", false, testOutputRefused},
	{"kill ends one stage", false, testKill},
	{"background processes end with their stage", false, testBackground},
	{"writes go to the scratch", true, testScratch},
}

// TestRuntime checks that a runtime keeps the promises of isolation.Runtime, Sandbox and Process: those above, and those
// of the sandboxes' system alone. newEnv is called once for each subtest, and once to learn the system.
func TestRuntime(t *testing.T, newEnv func(t testing.TB) RuntimeEnv) {
	var subtests []subtest
	deviations := map[string]string{}
	test := func(p promise) {
		t.Run(p.name, func(t *testing.T) {
			env := newEnv(t)
			if env.Core && !p.core {
				return
			}
			maps.Copy(deviations, env.Deviations)
			subtest{p.name, func(t testing.TB) { p.run(t, env) }}.attempt(t, env.Deviations)
		})
		subtests = append(subtests, subtest{name: p.name})
	}
	for _, p := range promises {
		test(p)
	}
	for _, p := range newEnv(t).system().promises() {
		test(p)
	}
	checkDeviations(t, subtests, deviations)
}

// box is a sandbox under test.
type box struct {
	isolation.Sandbox
	spec isolation.Spec
	system
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
	return box{sandbox, spec, env.system()}
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

// lines is the output with line ends as Linux has them.
func (r result) lines() string { return strings.ReplaceAll(r.stdout, "\r\n", "\n") }

// run runs a process to its end.
func (b box) run(t testing.TB, spec isolation.ProcessSpec) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	spec.Stdout, spec.Stderr = &stdout, &stderr
	exit, err := wait(t, b.start(t, spec))
	require.NoError(t, err)
	return result{exit, stdout.String(), stderr.String()}
}

// living starts a process that does not end by itself, nor when it is asked to.
func (b box) living(t testing.TB) isolation.Process {
	t.Helper()
	var stdout syncbuf.Buffer
	spec := b.live()
	spec.Stdout = &stdout
	p := b.start(t, spec)
	require.Eventually(t, func() bool { return strings.TrimSpace(stdout.String()) == "up" }, runtimeTimeout, time.Millisecond)
	return p
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
