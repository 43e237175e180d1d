package conformance

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

func testExitCodes(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for line, want := range map[string]isolation.Exit{
		"true":          {},
		"exit 1":        {Code: 1},
		"exit 2":        {Code: 2},
		"exit 77":       {Code: 77},
		"exit 255":      {Code: 255},
		"kill -9 $$":    {Code: 137, Signal: 9},
		"kill -TERM $$": {Code: 143, Signal: 15},
	} {
		require.Equal(t, want, b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", line}}).Exit, line)
	}
}

func testArguments(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, isolation.ProcessSpec{Args: []string{"printf", "<%s>", "", "a b", "$HOME", "'\"", "two\nlines", "ä€"}})
	require.Equal(t, "<><a b><$HOME><'\"><two\nlines><ä€>", r.stdout)

	b.shell(t, "mkdir /opt && printf '#!/bin/sh\necho mine' > /opt/ls && chmod +x /opt/ls")
	r = b.run(t, isolation.ProcessSpec{Args: []string{"ls"}, Env: []string{"PATH=/opt:/bin"}})
	require.Equal(t, "mine\n", r.stdout)

	_, err := b.Start(deadline(t), isolation.ProcessSpec{Args: []string{"no-such-program"}})
	require.ErrorContains(t, err, "no-such-program")
	require.Equal(t, fault.Author, fault.ClassOf(err))
}

func testEnvironment(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "echo $GREETING $EXTRA"}, Env: []string{"EXTRA=one", "EXTRA=two"}})
	require.Equal(t, "image two\n", r.stdout)
	r = b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "echo \"$GREETING\""}, Env: []string{"GREETING=several words"}})
	require.Equal(t, "several words\n", r.stdout)

	r = b.run(t, isolation.ProcessSpec{Args: []string{"env"}})
	for line := range strings.Lines(r.stdout) { // nothing of the executor's own environment
		name, _, _ := strings.Cut(line, "=")
		require.Contains(t, []string{"PATH", "HOME", "GREETING", "HOSTNAME", "USER", "LOGNAME", "SHELL", "PWD"}, name)
	}
}

func testDirectory(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for dir, want := range map[string]string{"/usr/bin": "/usr/bin", "": "/builds", "/no/such/directory": "/builds"} {
		require.Equal(t, want+"\n", b.run(t, isolation.ProcessSpec{Args: []string{"pwd"}, Dir: dir}).stdout, "%q", dir)
	}
}

func testUsers(t testing.TB, env RuntimeEnv) {
	const who = "echo $(id -u):$(id -g):$(id -G)"
	b := newBox(t, env)
	for user, want := range map[string]string{
		"":          "0:0:0",
		"builder":   "1000:1000:1000 2000",
		"1000":      "1000:1000:1000 2000",
		"builder:0": "1000:0:0",
		"1234:5678": "1234:5678:5678",
		"0:builder": "0:1000:1000",
		"nobody":    "65534:65534:65534",
	} {
		r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", who}, User: user})
		require.Equal(t, want+"\n", r.stdout, "user %q: %s", user, r.stderr)
	}
	_, err := b.Start(deadline(t), isolation.ProcessSpec{Args: []string{"true"}, User: "nobody-of-that-name"})
	require.ErrorContains(t, err, "nobody-of-that-name")

	builders := newBox(t, env, func(s *isolation.Spec) { s.Image.Config.User = "builder" })
	require.Equal(t, "1000:1000:1000 2000\n", builders.shell(t, who))
	builders.shell(t, "echo x > /builds/x && echo x > /cache/x && echo x > /tmp/x")
}

func testScripts(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, isolation.ProcessSpec{Script: []byte("set -e\nA=1\necho \"line $A\"\ncat\necho err >&2\nexit 42\n")})
	require.Equal(t, result{isolation.Exit{Code: 42}, "line 1\n", "err\n"}, r)

	long := "echo start\n" + strings.Repeat(": 'padding of a long script, as runners generate them'\n", 40000) + "echo end\n" // 2 MiB
	r = b.run(t, isolation.ProcessSpec{Script: []byte(long)})
	require.Equal(t, "start\nend\n", r.stdout, r.stderr)

	r = b.run(t, isolation.ProcessSpec{Script: []byte("id -u; cat \"$0\" >/dev/null && echo readable"), User: "builder"})
	require.Equal(t, "1000\nreadable\n", r.stdout, r.stderr)
	require.Zero(t, b.run(t, isolation.ProcessSpec{Script: []byte{}}).Code, "an empty script")
	require.Empty(t, b.shell(t, "ls "+isolation.ScriptDir), "scripts go with their stage")
}

func testStdin(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	input := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	r := b.run(t, isolation.ProcessSpec{Args: []string{"cat"}, Stdin: strings.NewReader(input)})
	require.Zero(t, r.Code)
	require.True(t, r.stdout == input, "%d bytes came back of %d", len(r.stdout), len(input))
	require.Empty(t, b.run(t, isolation.ProcessSpec{Args: []string{"cat"}}).stdout)
}

func testOutput(t testing.TB, env RuntimeEnv) {
	const size = 8 << 20
	b := newBox(t, env)
	b.shell(t, fmt.Sprintf("head -c %d /dev/urandom > /builds/out; head -c %[1]d /dev/urandom > /builds/err", size))
	r := b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "cat /builds/out & cat /builds/err >&2 & wait"}})
	require.Zero(t, r.Code)
	require.Len(t, r.stdout, size)
	require.Len(t, r.stderr, size)
	sums := fmt.Sprintf("%x  /builds/out\n%x  /builds/err\n", sha256.Sum256([]byte(r.stdout)), sha256.Sum256([]byte(r.stderr)))
	require.Equal(t, sums, b.shell(t, "sha256sum /builds/out /builds/err"))
}

func testOutputRefused(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.start(t, isolation.ProcessSpec{
		Args:   []string{"sh", "-c", "head -c 4000000 /dev/zero; echo done >&2; exit 5"},
		Stdout: brokenWriter{}, // Stderr is nil: discarded
	})
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 5}, exit)
}

// brokenWriter is a consumer that has gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("nobody is there") }

func testSignalTree(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	var stdout syncbuf.Buffer
	p := b.start(t, isolation.ProcessSpec{
		Script: []byte("trap 'echo parent' TERM\nsh -c 'trap \"echo child; exit 0\" TERM; echo up; while :; do sleep 0.01; done' &\nwait $!\nwait $!\nexit 3\n"),
		Stdout: &stdout,
	})
	require.Eventually(t, func() bool { return stdout.String() == "up\n" }, runtimeTimeout, time.Millisecond)
	require.NoError(t, p.Signal(deadline(t), 15))
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 3}, exit)
	require.Contains(t, stdout.String(), "parent\n")
	require.Contains(t, stdout.String(), "child\n")
	require.Equal(t, "next\n", b.shell(t, "echo next"), "only that stage ends")
}

func testKillTree(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	var stdout syncbuf.Buffer
	p := b.start(t, isolation.ProcessSpec{
		Script: []byte("trap '' TERM INT HUP\nsetsid sh -c 'trap \"\" TERM; sleep 1005 & sleep 1005' &\n(sleep 1005 &)\necho up\nwhile :; do sleep 1; done\n"),
		Stdout: &stdout,
	})
	bystander := b.start(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "read x; echo $x"}, Stdin: strings.NewReader("still here\n")})
	require.Eventually(t, func() bool { return stdout.String() == "up\n" }, runtimeTimeout, time.Millisecond)
	require.NoError(t, p.Signal(deadline(t), 15))
	require.NoError(t, p.Signal(deadline(t), 9))
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, isolation.Exit{Code: 137, Signal: 9}, exit)
	require.False(t, b.running(t, "sleep 1005"))
	exit, err = wait(t, bystander)
	require.NoError(t, err)
	require.Zero(t, exit.Code)
}

func testBackground(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for _, line := range []string{
		"sleep 1006 &",
		"setsid sleep 1006 &",
		"(setsid sh -c 'trap \"\" HUP TERM; sleep 1006; :' &)",
		"nohup sleep 1006 >/dev/null 2>&1 &",
	} {
		r := b.run(t, isolation.ProcessSpec{Script: []byte(line + "\necho main\nexit 4\n")})
		require.Equal(t, result{isolation.Exit{Code: 4}, "main\n", r.stderr}, r, line)
		require.False(t, b.running(t, "sleep 1006"), line)
	}
}

func testInteractive(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.start(t, isolation.ProcessSpec{Args: []string{"sleep", "1007"}, Interactive: true})
	b.run(t, isolation.ProcessSpec{Script: []byte("sleep 1008 &")})
	require.True(t, b.running(t, "sleep 1007"))
	require.False(t, b.running(t, "sleep 1008"))
	require.NoError(t, p.Signal(deadline(t), 9))
	_, err := wait(t, p)
	require.NoError(t, err)
}

func testTerminal(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	reader, writer := io.Pipe()
	var screen syncbuf.Buffer
	p := b.start(t, isolation.ProcessSpec{Args: []string{"sh"}, Interactive: true, TTY: true, Rows: 33, Columns: 99, Stdin: reader, Stdout: &screen})
	say := func(line, want string) {
		t.Helper()
		_, err := io.WriteString(writer, line+"\n")
		require.NoError(t, err)
		require.Eventually(t, func() bool { return strings.Contains(screen.String(), want) }, runtimeTimeout, time.Millisecond, "%s", screen.String)
	}
	say("test -t 0 && test -t 1 && test -t 2 && echo a''tty", "atty")
	say("stty size", "33 99")
	require.NoError(t, p.Resize(deadline(t), 44, 111))
	say("stty size", "44 111")
	say("echo to stderr >&2; echo fi''nis", "finis")
	require.Contains(t, screen.String(), "to stderr")
	_, err := io.WriteString(writer, "exit 6\n")
	require.NoError(t, err)
	exit, err := wait(t, p)
	require.NoError(t, err)
	require.Equal(t, 6, exit.Code)
	require.NoError(t, writer.Close())
}

func testHelper(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	helper := func(line string) result {
		t.Helper()
		return b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte(line)})
	}
	require.Equal(t, "helper\n", helper("test -e "+HelperMarker+" && echo $GREETING").stdout)
	require.Equal(t, "image\n", b.shell(t, "test ! -e "+HelperMarker+" && echo $GREETING"))

	require.Zero(t, helper("echo sources > /builds/sources; echo cached > /cache/cached").Code)
	require.Equal(t, "sources\ncached\n", b.shell(t, "cat /builds/sources /cache/cached"))
	b.shell(t, "echo built > /builds/artifact")
	require.Equal(t, "built\n", helper("cat /builds/artifact").stdout)

	for _, line := range []string{"echo x > /etc/x", "rm " + HelperMarker, "touch /x", "echo x > /etc/hosts", "rm -r /bin", "chmod 000 /dev/null"} {
		require.NotZero(t, helper(line).Code, "%s in the helper root", line)
	}
	// A file of the helper root, through the image's view of it.
	for _, path := range []string{HelperMarker, "/etc/hosts", "/bin/busybox"} {
		require.NotZero(t, b.run(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "echo x >> " + isolation.HelperPath + path}}).Code, path)
	}
	r := helper("set -e; echo x > /tmp/x; echo x > $HOME/x; cd; pwd; echo x > /dev/null; head -c 8 /dev/urandom | wc -c; test -r /proc/self/status && echo proc")
	require.Equal(t, isolation.HomeDir+"\n8\nproc\n", r.stdout, r.stderr)
}

func testNoHelper(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) { s.Helper = nil })
	r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte("echo $GREETING")})
	require.Equal(t, "image\n", r.stdout, r.stderr)
}
