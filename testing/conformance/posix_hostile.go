package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// posixOwnDirectory: whatever a job that is root does to Airlock's own directories, and to what else a stage needs, the
// stages that follow run.
func posixOwnDirectory(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	const own, helpers = isolation.Dir, isolation.HelperPath + isolation.Dir
	lines := []string{
		"rm -rf " + isolation.ScriptDir,
		"rm -rf $d/scripts $d/home; ln -s /builds $d/scripts; ln -s /builds $d/home",
		"dd if=/dev/zero of=$d/full bs=64k 2>/dev/null; rm -rf $d/scripts; dd if=/dev/zero of=$d/fuller bs=64 2>/dev/null",
		"kill -STOP 1; kill -9 1; kill -9 -1",
	}
	if env.Quick {
		lines = append(lines,
			"rm -rf "+own, // goes through every process of /.airlock/helper/proc: in a guest the kernel's own threads, too
			"rm -rf "+own+"/agent "+helpers+"; rmdir "+own+" "+isolation.HelperPath,
			"mv $d/scripts $d/gone; ln -s /no/where $d/scripts",
			"rm -rf $d/scripts; mkfifo $d/scripts",
			"rm -rf $d/scripts; echo x > $d/scripts",
			"chmod 000 $d/scripts; chmod 000 $d; chown 1000 $d $d/scripts",
			"cd $d && touch $(seq 1 3000); x=$(printf 'x/%.0s' $(seq 1 1000)); mkdir -p $x && cd $x && mkdir -p $x && cd $x && mkdir -p $x",
			"rm -rf $d/home; mkfifo $d/home",
			"rm -rf $d/home; echo x > $d/home",
			"mkdir -p $d/home/.config; echo evil > $d/home/.gitconfig; chmod 000 $d/home; chown 7 $d/home",
			"rm -rf /builds /cache /tmp /etc/passwd /etc/group /dev/shm/* /run/*",
			"chmod 000 /builds /cache /tmp /etc",
			"mkfifo /etc/passwd; ln -s /proc/self/environ /etc/group",
			"rm -f /dev/null /dev/stdout /dev/stderr /dev/ptmx; rm -rf /dev/pts /dev/fd",
		)
	}
	for _, line := range lines {
		for _, d := range []string{own, helpers} {
			p := b.start(t, isolation.ProcessSpec{Args: []string{"sh", "-c", "d=" + d + "; " + line}})
			_, err := wait(t, p)
			require.NoError(t, err, line)
			if !strings.Contains(line, "$d") {
				break
			}
		}
		r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte("echo helper; ls -A $HOME; echo x > $HOME/x"), Dir: "/builds/group/project"})
		require.Equal(t, "helper\n", r.stdout, "%s\n%s", line, r.stderr)
		r = b.run(t, isolation.ProcessSpec{Script: []byte("echo author; ls /builds")})
		require.Equal(t, "author\n", r.stdout, "%s\n%s", line, r.stderr)
	}
}

// posixShellRemoved: a job that removed its shell is told that, and the runner's own stages go on.
func posixShellRemoved(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) { s.Scripts = true })
	b.shell(t, "rm -f /bin/sh /bin/bash /bin/ash")
	_, err := b.Start(deadline(t), isolation.ProcessSpec{Script: []byte("true")})
	require.ErrorContains(t, err, "the image's shell /bin/sh is gone: this job has removed it")
	require.NotContains(t, err.Error(), "has no shell")
	require.Equal(t, fault.Author, fault.ClassOf(err))
	r := b.run(t, isolation.ProcessSpec{Helper: true, Script: []byte("echo helper")})
	require.Equal(t, "helper\n", r.stdout, r.stderr)
}

// posixUnenterable: a directory that the stage's user may not enter is not worked in, whoever closed it.
func posixUnenterable(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env, func(s *isolation.Spec) { s.Image.Config.User = "builder" })
	b.shell(t, "mkdir -p /builds/closed && chmod 000 /builds/closed")
	in := func(helper bool, want string) {
		t.Helper()
		r := b.run(t, isolation.ProcessSpec{Helper: helper, Script: []byte("pwd"), Dir: "/builds/closed"})
		require.Equal(t, want+"\n", r.stdout, r.stderr)
	}
	in(false, "/builds")
	in(true, "/builds") // although it may go there by itself: layout.RunnersCapabilities come with the execution
	b.shell(t, "chmod 000 /builds")
	in(false, "/")
	in(true, "/")
}

// posixOddImages: what is wrong with an image is its author's failure, known when the sandbox is made, and at once.
func posixOddImages(t testing.TB, env RuntimeEnv) {
	replace := func(path string, do func(path string) error) func(testing.TB, string) {
		return func(t testing.TB, root string) {
			path := filepath.Join(root, path)
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, do(path))
		}
	}
	fifo := func(path string) error { return exec.Command("mkfifo", path).Run() }
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	type odd struct {
		change func(t testing.TB, root string)
		says   string
	}
	images := map[string]odd{
		"passwd is a FIFO":         {replace("etc/passwd", fifo), "/etc/passwd is not a regular file"},
		"passwd leads into proc":   {replace("etc/passwd", link("/proc/self/environ")), "/etc/passwd"},
		"a link to no shell":       {replace("bin/sh", link("/no/such/busybox")), "the image has no shell"},
		"a shell without a loader": {replace("bin/sh", copyOf("/bin/ls")), "/bin/sh needs /lib64/ld-"},
	}
	if env.Quick {
		for name, more := range map[string]odd{
			"passwd is a directory":  {replace("etc/passwd", func(path string) error { return os.Mkdir(path, 0o755) }), "/etc/passwd is not a regular file"},
			"passwd leads nowhere":   {replace("etc/passwd", link("../../../../etc/no-such-file")), "/etc/passwd is a link to nothing"},
			"passwd leads to itself": {replace("etc/passwd", link("passwd")), "/etc/passwd"},
			"passwd is endless": {replace("etc/passwd", func(path string) error {
				return os.WriteFile(path, []byte(strings.Repeat("x", 1<<20)), 0o644)
			}), "a line is too long"},
			"passwd has a gigabyte": {replace("etc/passwd", func(path string) error {
				return os.WriteFile(path, make([]byte, 5<<20), 0o644)
			}), "/etc/passwd has 5242880 bytes"},
			"group is a FIFO":       {replace("etc/group", fifo), "/etc/group is not a regular file"},
			"the only shell is one": {replace("bin/sh", func(path string) error { return os.Mkdir(path, 0o755) }), "the image has no shell"},
			"a shell for nobody":    {replace("bin/sh", func(path string) error { return os.WriteFile(path, []byte("#!/bin/busybox sh\n"), 0o644) }), "the image has no shell"},
			"an odd interpreter":    {replace("bin/sh", func(path string) error { return os.WriteFile(path, []byte("#! /opt/sh -e\n"), 0o755) }), "/bin/sh needs /opt/sh"},
		} {
			images[name] = more
		}
	}
	require.NotNil(t, env.Image, "the runtime takes no images that the suite makes")
	for name, image := range images {
		spec := env.Spec(t)
		spec.Scripts = true
		spec.Image = env.Image(t, func(root string) { image.change(t, root) })
		began := time.Now()
		_, err := env.New(t).Create(deadline(t), spec)
		require.ErrorContains(t, err, image.says, name)
		require.Equal(t, fault.Author, fault.ClassOf(err), "%s: %v", name, err)
		require.Less(t, time.Since(began), runtimeTimeout/2, name)
		require.Empty(t, env.Leftovers(t, spec.ID), name)
	}
}

// copyOf copies a program of this host.
func copyOf(program string) func(path string) error {
	return func(path string) error {
		content, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o755)
	}
}

// posixOddUsers: a USER that the image does not have, or that nothing can be, is the author's failure; odd working
// directories are no failure.
func posixOddUsers(t testing.TB, env RuntimeEnv) {
	b := newBox(t, env)
	for _, user := range []string{
		"nobody-of-that-name", "1000:no-such-group", "4294967296", "-1", "99999999999999999999", "0:-2", "a b", "\x00", strings.Repeat("x", 5000),
	} {
		_, err := b.Start(deadline(t), isolation.ProcessSpec{Args: []string{"true"}, User: user})
		require.Error(t, err, "%q", user)
		require.Equal(t, fault.Author, fault.ClassOf(err), "%q: %v", user, err)
	}
	b.shell(t, "mkfifo /fifo; ln -s /proc/self/cwd /loop; mkdir -p /rel/dir")
	for dir, want := range map[string]string{
		"/fifo": "/builds\n", "/etc/passwd": "/builds\n", "/loop": "/builds\n", "rel/dir": "/rel/dir\n", "../../rel/dir": "/rel/dir\n",
	} {
		r := b.run(t, isolation.ProcessSpec{Args: []string{"pwd"}, Dir: dir})
		require.Equal(t, want, r.stdout, "%q: %s", dir, r.stderr)
	}
}

// posixStreams: a stage's streams can be opened by their names, by every user.
func posixStreams(t testing.TB, env RuntimeEnv) {
	const line = `set -e
echo one | tee /dev/stderr
echo two > /dev/stdout
echo three >> /dev/stderr
echo four > /proc/self/fd/1
ln -s /dev/stdout $0.log && echo five > $0.log && rm $0.log
echo six > /dev/fd/2
`
	check := func(b box, spec isolation.ProcessSpec) {
		t.Helper()
		spec.Script = []byte(strings.ReplaceAll(line, "$0", "/tmp/stream"))
		r := b.run(t, spec)
		require.Equal(t, result{isolation.Exit{}, "one\ntwo\nfour\nfive\n", "one\nthree\nsix\n"}, r, "%+v", spec)
	}
	b := newBox(t, env)
	for _, user := range []string{"", "builder", "4321:4321"} {
		check(b, isolation.ProcessSpec{User: user})
	}
	check(b, isolation.ProcessSpec{Helper: true})
	r := b.run(t, isolation.ProcessSpec{Script: []byte("su -s /bin/sh builder -c 'id -u > /dev/stdout'")})
	require.Equal(t, "1000\n", r.stdout, r.stderr)

	builders := newBox(t, env, func(s *isolation.Spec) { s.Image.Config.User = "builder" })
	check(builders, isolation.ProcessSpec{})
	check(builders, isolation.ProcessSpec{Helper: true})
}

// posixRlimits: build scripts may raise their limits, and a core file lies where the process was.
func posixRlimits(t testing.TB, env RuntimeEnv) {
	require.NotNil(t, env.Rlimits, "the runtime limits no processes")
	script, want := "set -e\n", ""
	for option, hard := range env.Rlimits(t) {
		script += "ulimit -H" + option + "; ulimit -" + option + " " + hard + "; ulimit -S" + option + "\n"
		want += hard + "\n" + hard + "\n"
	}
	b := newBox(t, env, func(s *isolation.Spec) { s.Image.Config.User = "builder"; s.Limits.PIDs = 60 })
	for _, spec := range []isolation.ProcessSpec{{}, {User: "0"}, {Helper: true}} {
		spec.Script = []byte(script)
		r := b.run(t, spec)
		require.Equal(t, result{isolation.Exit{}, want, ""}, r, "%s as %q, helper %t", script, spec.User, spec.Helper)
	}
	require.Equal(t, "0\n", b.shell(t, "ulimit -Sc"), "no core files unless the job asks for them")
	pattern := b.shell(t, "cat /proc/sys/kernel/core_pattern")
	cores := b.shell(t, "cd /builds; ulimit -c unlimited; sh -c 'kill -SEGV $$' 2>/dev/null; ls | grep -c core || true")
	if !strings.HasPrefix(pattern, "/") && !strings.HasPrefix(pattern, "|") { // which is the host's, at the process level
		require.Equal(t, "1\n", cores, pattern)
	}
	r := b.run(t, isolation.ProcessSpec{Script: []byte("ulimit -u unlimited 2>/dev/null; i=0; while [ $i -lt 200 ]; do sleep 1009 & i=$((i+1)); done; echo all")})
	require.NotContains(t, r.stdout, "all", "the sandbox's own limit holds")
}
