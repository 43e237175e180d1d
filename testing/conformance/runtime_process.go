package conformance

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

func testExitCodes(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for _, code := range []int{0, 1, 2, 77, 255} {
		require.Equal(t, isolation.Exit{Code: code}, b.run(t, b.exit(code)).Exit, "%d", code)
	}
	for name, other := range b.otherExits() {
		require.Equal(t, other.exit, b.run(t, other.process).Exit, name)
	}
	_, err := b.Start(deadline(t), isolation.ProcessSpec{Args: []string{"no-such-program"}})
	require.ErrorContains(t, err, "no-such-program")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func testArguments(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	args := []string{"", "a b", "$HOME", "%PATH%", `say "x"`, "'\"", `C:\dir with space\`, `\\`, "two\nlines", "ä€"}
	require.Equal(t, "<"+strings.Join(args, "><")+">", b.run(t, b.show(args...)).stdout)
}

func testEnvironment(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	with := func(env ...string) string {
		t.Helper()
		process := b.variables("GREETING", "EXTRA")
		process.Env = env
		return b.run(t, process).lines()
	}
	require.Equal(t, "image two\n", with("EXTRA=one", "EXTRA=two"))
	require.Equal(t, "several words x\n", with("GREETING=several words", "EXTRA=x"))
}

func testDirectory(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for dir, want := range b.places().dirs {
		process := b.directory()
		process.Dir = dir
		require.Equal(t, want+"\n", strings.ToLower(b.run(t, process).lines()), "%q", dir)
	}
}

func testScripts(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, b.script())
	require.Equal(t, result{isolation.Exit{Code: 42}, "line 1\n", "err\n"}, result{r.Exit, r.lines(), strings.ReplaceAll(r.stderr, "\r\n", "\n")})
	r = b.run(t, b.longScript())
	require.Equal(t, "start\nend\n", r.lines(), r.stderr)
	empty := b.script()
	empty.Script = []byte{}
	require.Zero(t, b.run(t, empty).Code, "an empty script")
	require.Empty(t, strings.TrimSpace(b.run(t, b.list(b.places().scripts)).stdout), "scripts go with their stage")
}

func testStdin(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	input := make([]byte, 1<<20)
	_, _ = rand.Read(input) // never fails (crypto/rand)
	process := b.cat()
	process.Stdin = bytes.NewReader(input)
	r := b.run(t, process)
	require.Zero(t, r.Code)
	require.True(t, r.stdout == string(input), "%d bytes came back of %d", len(r.stdout), len(input))
	require.Empty(t, b.run(t, b.cat()).stdout)
}

func testOutput(t testing.TB, env RuntimeEnv) {
	const numbers = 1_000_000
	b := newBox(t, env)
	var want strings.Builder // 7 MB
	for n := range numbers {
		fmt.Fprintln(&want, n+1)
	}
	r := b.run(t, b.count(numbers, 0))
	require.Zero(t, r.Code)
	require.True(t, r.stdout == want.String(), "%d bytes came on stdout of %d", len(r.stdout), want.Len())
	require.True(t, r.stderr == want.String(), "%d bytes came on stderr of %d", len(r.stderr), want.Len())
}

func testOutputRefused(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	process := b.count(500_000, 5)
	process.Stdout = brokenWriter{} // Stderr is nil: discarded
	exit, err := wait(t, b.start(t, process))
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 5}, exit)
}

// brokenWriter is a consumer that has gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("nobody is there") }

func testKill(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p, bystander := b.living(t), b.living(t)
	require.NoError(t, p.Signal(deadline(t), 9))
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 137, Signal: 9}, exit)
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = bystander.Wait() }()
	select {
	case <-ended:
		require.Fail(t, "only that stage ends")
	case <-time.After(100 * time.Millisecond):
	}
	require.Zero(t, b.run(t, b.exit(0)).Code)
	require.NoError(t, bystander.Signal(deadline(t), 9))
	select {
	case <-ended:
	case <-time.After(runtimeTimeout):
		require.Fail(t, "it does not end either")
	}
}

func testBackground(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	before, err := b.Stats(deadline(t))
	require.NoError(t, err)
	for _, process := range b.leaving() {
		began := time.Now()
		r := b.run(t, process)
		require.Equal(t, result{isolation.Exit{Code: 4}, "main\n", r.stderr}, result{r.Exit, r.lines(), r.stderr}, "%s", process.Script)
		require.Less(t, time.Since(began), runtimeTimeout/2, "it holds nothing up")
		require.False(t, b.left(t, b, before), "%s", process.Script)
	}
}
