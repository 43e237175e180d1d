package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// WindowsEnv is a runtime of Windows containers with what its suite needs: RuntimeEnv, whose image is a Windows one with
// GREETING=image in its environment and whose helper directory holds the test's own program as tool.exe.
//
// The suite is a second one, and not TestRuntime in another shell, because most of what TestRuntime asks (users, signals,
// terminals, a second root) means something else on Windows. It is meant to pass on a real one too.
type WindowsEnv struct {
	RuntimeEnv
	// Separate says that sandboxes have a C: of their own. The simulator's shared guests have not.
	Separate bool
	// ImageFile is a file of the image with the text "base"; empty for images that have none, Microsoft's own.
	ImageFile string
}

// tool is the program in the helper directory; see WindowsTool.
const tool = `C:\airlock\helper\tool.exe`

// WindowsTool is what tool.exe does in a sandbox: the test's program has to call it from TestMain when its first
// argument is "tool".
func WindowsTool(args []string) int {
	switch args[0] {
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "args":
		fmt.Printf("%q", args[1:])
	case "exit":
		n, _ := strconv.ParseUint(args[1], 10, 32)
		os.Exit(int(uint32(n)))
	case "live":
		fmt.Println("up")
		time.Sleep(time.Hour)
	case "spill": // bytes to both streams
		n, _ := strconv.Atoi(args[1])
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("o"), n))
		_, _ = os.Stderr.Write(bytes.Repeat([]byte("e"), n))
	case "leave": // a child that holds the output, and lives
		child := exec.Command(os.Args[0], "tool", "live")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("left")
	case "write":
		if err := os.WriteFile(args[1], []byte(args[2]), 0o666); err != nil {
			fmt.Println(err)
			return 1
		}
	case "read":
		text, err := os.ReadFile(args[1])
		if err != nil {
			fmt.Print("missing")
			return 1
		}
		_, _ = os.Stdout.Write(text)
	}
	return 0
}

// TestWindowsRuntime checks that a runtime of Windows containers keeps the promises of isolation.Runtime, Sandbox and
// Process, as far as Windows has a meaning for them.
func TestWindowsRuntime(t *testing.T, newEnv func(t testing.TB) WindowsEnv) {
	for _, test := range []struct {
		name string
		run  func(t testing.TB, env WindowsEnv)
	}{
		{"life cycle", windowsLife},
		{"destroy beside a running process", windowsDestroyRunning},
		{"destroy by id in a new instance", windowsDestroyByID},
		{"create leaves nothing when it fails", windowsCreateFails},
		{"an id is used once", windowsIDTaken},
		{"exit codes", windowsExitCodes},
		{"arguments and environment", windowsArguments},
		{"working directory", windowsDirectory},
		{"scripts", windowsScripts},
		{"stdin", windowsStdin},
		{"output apart and exact", windowsOutput},
		{"output that nobody takes", windowsOutputRefused},
		{"a signal ends a stage", windowsSignal},
		{"what a stage leaves holds nothing up", windowsLeft},
		{"helper stages", windowsHelper},
		{"the helper directory is read-only", windowsHelperReadOnly},
		{"writes go to the scratch", windowsScratch},
		{"limits are accepted", windowsLimits},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newEnv(t)) })
	}
}

// tool runs a tool's command to its end.
func (b box) tool(t testing.TB, args ...string) result {
	t.Helper()
	return b.run(t, isolation.ProcessSpec{Args: append([]string{tool, "tool"}, args...)})
}

func lines(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

func windowsLife(t testing.TB, env WindowsEnv) {
	runtime, spec := env.New(t), env.Spec(t)
	sandbox, err := runtime.Create(deadline(t), spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, sandbox.ID())
	ids, err := runtime.List(deadline(t))
	require.NoError(t, err)
	require.Contains(t, ids, spec.ID)
	b := box{sandbox, spec}
	stats, err := sandbox.Stats(deadline(t))
	require.NoError(t, err)
	require.Positive(t, stats.Memory)
	require.Equal(t, result{stdout: "hello\r\n"}, b.run(t, isolation.ProcessSpec{Args: []string{"cmd", "/c", "echo hello"}}))
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- sandbox.Destroy(context.Background()) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	<-sandbox.Done()
	require.Empty(t, env.Leftovers(t, spec.ID))
	ids, err = runtime.List(deadline(t))
	require.NoError(t, err)
	require.NotContains(t, ids, spec.ID)
	_, err = sandbox.Start(deadline(t), isolation.ProcessSpec{Args: []string{"cmd", "/c", "echo"}})
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	_, err = sandbox.Stats(deadline(t))
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

// living starts a process that lives until it is ended.
func (b box) living(t testing.TB) isolation.Process {
	t.Helper()
	var stdout syncbuf.Buffer
	p := b.start(t, isolation.ProcessSpec{Args: []string{tool, "tool", "live"}, Stdout: &stdout})
	require.Eventually(t, func() bool { return lines(stdout.String()) == "up\n" }, runtimeTimeout, 5*time.Millisecond)
	return p
}

func windowsDestroyRunning(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	p := b.living(t)
	require.NoError(t, b.Destroy(deadline(t)))
	_, err := wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	require.Empty(t, env.Leftovers(t, b.spec.ID))
}

func windowsDestroyByID(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	p := b.living(t)
	successor := env.New(t)
	require.NoError(t, successor.Destroy(deadline(t), b.spec.ID))
	require.Empty(t, env.Leftovers(t, b.spec.ID))
	_, err := wait(t, p)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	<-b.Done()
	require.NoError(t, successor.Destroy(deadline(t), b.spec.ID), "once more")
	require.Error(t, successor.Destroy(deadline(t), "../etc"))
}

func windowsCreateFails(t testing.TB, env WindowsEnv) {
	for name, edit := range map[string]func(*isolation.Spec){
		"bad id":          func(s *isolation.Spec) { s.ID = "../x" },
		"missing layer":   func(s *isolation.Spec) { s.Image.Layers = []string{`C:\does\not\exist`} },
		"missing scratch": func(s *isolation.Spec) { s.ScratchDir = `C:\does\not\exist` },
		"foreign build":   func(s *isolation.Spec) { s.Image.Config.OSVersion = "10.0.65000.1" },
	} {
		spec := env.Spec(t)
		edit(&spec)
		_, err := env.New(t).Create(deadline(t), spec)
		require.Error(t, err, name)
		require.Empty(t, env.Leftovers(t, spec.ID), name)
	}
	spec, why := env.Spec(t), errors.New("the caller gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err := env.New(t).Create(ctx, spec)
	require.ErrorIs(t, err, why)
	require.Empty(t, env.Leftovers(t, spec.ID))
}

func windowsIDTaken(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	again := env.Spec(t)
	again.ID = b.spec.ID
	_, err := env.New(t).Create(deadline(t), again)
	require.Error(t, err)
	require.Zero(t, b.tool(t, "exit", "0").Code)
}

func windowsExitCodes(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	for argument, want := range map[string]int{"0": 0, "1": 1, "77": 77, "256": 256, "3221225477": -1073741819} {
		require.Equal(t, isolation.Exit{Code: want}, b.tool(t, "exit", argument).Exit, argument)
	}
	require.Equal(t, 3, b.run(t, isolation.ProcessSpec{Args: []string{"cmd", "/c", "exit 3"}}).Code)
	_, err := b.Start(deadline(t), isolation.ProcessSpec{Args: []string{"no-such-program.exe"}})
	require.ErrorContains(t, err, "no-such-program.exe")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func windowsArguments(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	args := []string{"", "a b", `say "x"`, `C:\dir with space\`, `\\`, "%PATH%", "ä€"}
	require.Equal(t, fmt.Sprintf("%q", args), b.tool(t, append([]string{"args"}, args...)...).stdout)
	r := b.run(t, isolation.ProcessSpec{Args: []string{"cmd", "/c", "echo %GREETING% %EXTRA%"}, Env: []string{"EXTRA=one", "EXTRA=two"}})
	require.Equal(t, "image two\n", lines(r.stdout))
}

func windowsDirectory(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	for dir, want := range map[string]string{`C:\windows`: `c:\windows`, "C:/windows/system32": `c:\windows\system32`, "": `c:\builds`, `C:\no\such`: `c:\builds`} {
		r := b.run(t, isolation.ProcessSpec{Args: []string{"cmd", "/c", "cd"}, Dir: dir})
		require.Equal(t, want+"\n", strings.ToLower(lines(r.stdout)), "%q", dir)
	}
}

func windowsScripts(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	script := func(text string) result {
		t.Helper()
		return b.run(t, isolation.ProcessSpec{Script: []byte(text), Shell: "cmd"})
	}
	r := script("@echo off\r\nset A=1\r\necho line %A%\r\necho err>&2\r\nexit 42\r\n")
	require.Equal(t, result{isolation.Exit{Code: 42}, "line 1\n", "err\n"}, result{r.Exit, lines(r.stdout), lines(r.stderr)})
	require.Zero(t, script("").Code, "an empty script")
	r = script(`@dir /b C:\airlock\scripts` + "\r\n")
	require.Len(t, strings.Fields(r.stdout), 1, "the running stage's script and no other: %q", r.stdout)
}

func windowsStdin(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	input := strings.Repeat("0123456789abcdef", 1<<14)
	r := b.run(t, isolation.ProcessSpec{Args: []string{tool, "tool", "cat"}, Stdin: strings.NewReader(input)})
	require.True(t, r.stdout == input, "%d bytes came back of %d", len(r.stdout), len(input))
	require.Empty(t, b.tool(t, "cat").stdout)
}

func windowsOutput(t testing.TB, env WindowsEnv) {
	const size = 1 << 20
	r := newBox(t, env.RuntimeEnv).tool(t, "spill", strconv.Itoa(size))
	require.Zero(t, r.Code)
	require.True(t, r.stdout == strings.Repeat("o", size), "%d bytes", len(r.stdout))
	require.True(t, r.stderr == strings.Repeat("e", size), "%d bytes", len(r.stderr))
}

func windowsOutputRefused(t testing.TB, env WindowsEnv) {
	p := newBox(t, env.RuntimeEnv).start(t, isolation.ProcessSpec{Args: []string{tool, "tool", "spill", "1000000"}, Stdout: brokenWriter{}})
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{}, exit)
}

func windowsSignal(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	for _, signal := range []int{15, 9} {
		p := b.living(t)
		require.NoError(t, p.Signal(deadline(t), signal))
		exit, err := wait(t, p)
		require.NoError(t, err)
		require.Equal(t, isolation.Exit{Code: 128 + signal, Signal: signal}, exit)
	}
	require.Zero(t, b.tool(t, "exit", "0").Code, "only that stage ends")
}

func windowsLeft(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	began := time.Now()
	r := b.tool(t, "leave")
	require.Zero(t, r.Code)
	require.Contains(t, lines(r.stdout), "left\n")
	require.Less(t, time.Since(began), runtimeTimeout/2)
	require.Zero(t, b.tool(t, "exit", "0").Code)
}

func windowsHelper(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv)
	r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte("@tool.exe tool args found\r\n"), Shell: "cmd"})
	require.Equal(t, `["found"]`, r.stdout, r.stderr)
	r = b.run(t, isolation.ProcessSpec{Script: []byte("@tool.exe tool args found\r\n"), Shell: "cmd"})
	require.NotZero(t, r.Code, "it is in the PATH of the runner's own stages alone")
}

func windowsHelperReadOnly(t testing.TB, env WindowsEnv) {
	if !env.Separate {
		return // the simulator's shared guests see links
	}
	b := newBox(t, env.RuntimeEnv)
	require.NotZero(t, b.tool(t, "write", `C:\airlock\helper\x`, "x").Code)
	require.NotZero(t, b.tool(t, "write", `C:\airlock\scripts\x`, "x").Code)
}

func windowsScratch(t testing.TB, env WindowsEnv) {
	if !env.Separate {
		return
	}
	before := env.BaseFingerprint(t)
	b := newBox(t, env.RuntimeEnv)
	require.Zero(t, b.tool(t, "write", `C:\builds\mine`, "mine").Code)
	if env.ImageFile != "" {
		require.Zero(t, b.tool(t, "write", env.ImageFile, "changed").Code)
	}
	require.Equal(t, "mine", b.tool(t, "read", `C:\builds\mine`).stdout)
	other := newBox(t, env.RuntimeEnv)
	require.Equal(t, "missing", other.tool(t, "read", `C:\builds\mine`).stdout)
	if env.ImageFile != "" {
		require.Equal(t, "base", other.tool(t, "read", env.ImageFile).stdout)
	}
	require.Equal(t, before, env.BaseFingerprint(t))
}

func windowsLimits(t testing.TB, env WindowsEnv) {
	b := newBox(t, env.RuntimeEnv, func(s *isolation.Spec) {
		s.Limits = isolation.Limits{Memory: 512 << 20, CPUs: 0.5, PIDs: 100, Scratch: 21 << 30}
	})
	require.Zero(t, b.tool(t, "exit", "0").Code)
}
