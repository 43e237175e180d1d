package conformance

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

func posixLookUp(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	b.shell(t, "mkdir /opt && printf '#!/bin/sh\necho mine' > /opt/ls && chmod +x /opt/ls")
	r := b.run(t, isolation.ProcessSpec{Args: []string{"ls"}, Env: []string{"PATH=/opt:/bin"}})
	require.Equal(t, "mine\n", r.stdout)
}

func posixEnvironment(t testing.TB, env RuntimeEnv) {
	r := newBox(t, env).run(t, isolation.ProcessSpec{Args: []string{"env"}})
	require.Contains(t, r.stdout, "GREETING=image\n")
	for line := range strings.Lines(r.stdout) {
		name, _, _ := strings.Cut(line, "=")
		require.Contains(t, []string{"PATH", "HOME", "GREETING", "HOSTNAME", "USER", "LOGNAME", "SHELL", "PWD"}, name)
	}
}

func posixUsers(t testing.TB, env RuntimeEnv) {
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

func posixScripts(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	r := b.run(t, isolation.ProcessSpec{Script: []byte("id -u; cat \"$0\" >/dev/null && echo readable"), User: "builder"})
	require.Equal(t, "1000\nreadable\n", r.stdout, r.stderr)
}

func posixSignalTree(t testing.TB, env RuntimeEnv) {
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

func posixKillTree(t testing.TB, env RuntimeEnv) {
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

func posixInteractive(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	p := b.start(t, isolation.ProcessSpec{Args: []string{"sleep", "1007"}, Interactive: true})
	b.run(t, isolation.ProcessSpec{Script: []byte("sleep 1008 &")})
	require.True(t, b.running(t, "sleep 1007"))
	require.False(t, b.running(t, "sleep 1008"))
	require.NoError(t, p.Signal(deadline(t), 9))
	_, err := wait(t, p)
	require.NoError(t, err)
}

func posixTerminal(t testing.TB, env RuntimeEnv) {
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

func posixHelper(t testing.TB, env RuntimeEnv) {
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

func posixNoHelper(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) { s.Helper = nil })
	r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte("echo $GREETING")})
	require.Equal(t, "image\n", r.stdout, r.stderr)
}

// Archive is what gitlab-runner does when it keeps a cache: directories and files that are for their owner alone, and a new
// archive that takes the place of an old one. It prints the old one, if there was one.
const Archive = `set -e
dir=/cache/group/project/default
mkdir -p -m 700 "$dir"
test ! -e $dir/cache.zip || cat $dir/cache.zip
umask 077
id -u > "$dir/archive_$$"
mv -f "$dir/archive_$$" "$dir/cache.zip"
chmod 600 "$dir/cache.zip"
mkdir -p "$dir/of-$(id -u)/kept"
`

func posixCaches(t testing.TB, env RuntimeEnv) {
	for _, withHelper := range []bool{true, false} {
		b := newBox(t, env, func(s *isolation.Spec) {
			if !withHelper {
				s.Helper = nil
			}
		})
		last := ""
		for _, user := range []string{"0", "1000", "4321", "0", "4321:0", "1000"} {
			r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte(Archive), User: user})
			require.Zero(t, r.Code, "as %s after %q, helper root %t: %s", user, last, withHelper, r.stderr)
			require.Equal(t, last, r.stdout)
			uid, _, _ := strings.Cut(user, ":")
			last = uid + "\n"
			require.Equal(t, uid+"\n", b.shell(t, "stat -c %u /cache/group/project/default/cache.zip"))
		}
		// Authors' code has the rights of its user, no more.
		r := b.run(t, isolation.ProcessSpec{Args: []string{"cat", "/cache/group/project/default/cache.zip"}, User: "4321"})
		require.NotZero(t, r.Code)
		r = b.run(t, isolation.ProcessSpec{Args: []string{"mkdir", "/cache/mine"}, User: "4321"})
		require.Zero(t, r.Code, r.stderr)
		r = b.run(t, isolation.ProcessSpec{Helper: true, User: "1000", Args: []string{"rm", "-r", "/cache/group", "/cache/mine"}})
		require.Zero(t, r.Code, r.stderr)
	}
}
