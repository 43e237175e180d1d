package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/system"
)

// in returns the bench for use in a subtest.
func (b *bench) in(t *testing.T) *bench {
	other := *b
	other.t = t
	return &other
}

// answer is what a command of the administrator's said and how it ended.
type answer struct {
	stdout, stderr string
	status         int
}

// ask runs a command of the administrator's with something on its stdin.
func (b *bench) ask(stdin string, args ...string) answer {
	b.t.Helper()
	return b.answer(b.Airlock(args...), stdin)
}

func (b *bench) answer(cmd *exec.Cmd, stdin string) answer {
	b.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	require.NotNil(b.t, cmd.ProcessState, "%s: %v", cmd, err)
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// refused says that a command failed with a status and a message on stderr that has all of these words.
func (b *bench) refused(a answer, status int, words ...string) {
	b.t.Helper()
	require.Equal(b.t, status, a.status, a.stderr)
	require.True(b.t, strings.HasPrefix(a.stderr, "airlock: "), a.stderr)
	for _, word := range words {
		require.Contains(b.t, a.stderr, word)
	}
}

// inspect is `airlock inspect --json` of a job or a sandbox.
func (b *bench) inspect(job string) sandbox {
	b.t.Helper()
	var s sandbox
	require.NoError(b.t, json.Unmarshal([]byte(b.airlock("inspect", "--json", job)), &s))
	return s
}

// livingJob starts a job that has reached its script, which ends when the file /tmp/go appears. Its id is
// returned as administrators write it.
func (b *bench) livingJob() (*gitlabtest.Execution, string) {
	b.t.Helper()
	repo, err := b.gitlab.AddRepository(b.t.Context(), "group/project", map[string]string{"hello.txt": "from the repository\n"})
	require.NoError(b.t, err)
	job := b.job(repo.Build(gitlabtest.Job{Script: []string{
		"echo written by the job > note", "echo waiting", "until [ -e /tmp/go ]; do sleep 0.05; done", "cat reply",
	}}))
	execution := b.caller.Start(b.t.Context(), job)
	require.Eventually(b.t, func() bool { return strings.Contains(execution.Log(), "\nwaiting") }, 30*time.Second, 10*time.Millisecond,
		"%s", execution.Log())
	return execution, fmt.Sprint(job.ID)
}

func TestAnAdministratorLooksAfterALivingJob(t *testing.T) {
	b := start(t, system.Options{})
	execution, job := b.livingJob()
	id := b.ps()[0].ID

	t.Run("ps", func(t *testing.T) {
		b := b.in(t)
		list := b.airlock("ps")
		require.Regexp(t, `^JOB +SANDBOX +ISOLATION +RUNTIME +CPUS +MEMORY +IMAGE +STAGE +STATE +AGE +PROJECT\n`+job+` +`+id+` +process +crun +- +[\d.]+ [KM]iB +\S+/busybox +build_script +running +\d+s +group/project\n$`, list)
		all := b.ps()
		require.Len(t, all, 1)
		require.Equal(t, job, fmt.Sprint(all[0].JobID))
		require.Equal(t, "running", all[0].State)
		require.WithinDuration(t, time.Now(), all[0].CreatedAt, time.Minute)
	})
	t.Run("inspect", func(t *testing.T) {
		b := b.in(t)
		s := b.inspect(job)
		require.Equal(t, id, s.ID)
		require.Equal(t, s.ID, b.inspect(id).ID, "by either id")
		require.Contains(t, s.Reason, `isolation = "process"`)
		require.Regexp(t, `^sha256:[0-9a-f]{64}$`, s.Digest)
		require.Greater(t, s.MemoryBytes, int64(100<<10))
		require.Less(t, s.MemoryBytes, s.MemoryLimitBytes)
		require.Positive(t, s.ScratchUsedBytes)
		require.EqualValues(t, 512<<20, s.MemoryLimitBytes)
		require.Greater(t, s.PIDs, int64(2))
		require.EqualValues(t, 4096, s.PIDsLimit)
		require.EqualValues(t, 2<<30, s.ScratchBytes)
		names := map[string]bool{}
		for _, step := range s.Steps {
			require.Positive(t, step.Seconds)
			names[step.Name] = true
		}
		require.Equal(t, map[string]bool{"policy": true, "image": true, "network": true, "scratch": true, "sandbox": true}, names)
		require.Contains(t, b.airlock("inspect", job), " of 512 MiB\n")
		b.refused(b.ask("", "inspect", "4711"), 1, `no living job or sandbox "4711"`, "airlock ps")
	})
	t.Run("shell with a command", func(t *testing.T) { b.in(t).commandsBesideTheJob(t, job) })
	t.Run("shell on a terminal", func(t *testing.T) {
		b := b.in(t)
		s := b.terminal("shell", job)
		s.types("stty size; pwd; echo $((40+2))\r")
		s.shows("33 111\r\n/builds/group/project\r\n42\r\n")
		s.types("sleep 600\r")
		require.Eventually(t, func() bool { // Ctrl-C is for the sleep alone
			s.types("\x03")
			time.Sleep(100 * time.Millisecond)
			s.types("echo after $?\r")
			time.Sleep(100 * time.Millisecond)
			return strings.Contains(s.screen(), "after 130")
		}, 10*time.Second, 10*time.Millisecond, "Ctrl-C did not reach the command")
		s.types("exit 5\r")
		require.Equal(t, 5, s.ends())
	})
	t.Run("logs", func(t *testing.T) {
		b := b.in(t)
		for _, of := range []string{job, id} {
			lines := strings.Split(strings.TrimSpace(b.airlock("logs", "--json", of)), "\n")
			require.Greater(t, len(lines), 2)
			for _, line := range lines {
				require.Contains(t, line, id)
			}
		}
		require.Contains(t, b.airlock("logs", job), "INF sandbox ready ")
		require.Contains(t, b.airlock("logs", job), "stage=get_sources status=0")
		require.Empty(t, b.airlock("logs", "4711"))
		follow := b.terminal("logs", "--follow", id)
		follow.shows("sandbox ready")
		before := strings.Count(follow.screen(), "opens a shell")
		b.airlock("shell", job, "--", "true")
		require.Eventually(t, func() bool { return strings.Count(follow.screen(), "opens a shell") > before }, 10*time.Second, 10*time.Millisecond)
		follow.types("\x03")
		follow.ends()
	})
	t.Run("its image stays", func(t *testing.T) {
		b := b.in(t)
		digest := b.inspect(job).Digest
		b.refused(b.ask("", "image", "rm", digest), 1, digest+" is in use (sandboxes: 1)")
	})
	t.Run("the reaper lets it be", func(t *testing.T) {
		b := b.in(t)
		require.Equal(t, "nothing is left over\n", b.airlock("reap", "--dry-run"))
		require.Equal(t, "[]\n", b.airlock("reap", "--json"))
		require.Equal(t, "running", b.inspect(job).State)
	})

	b.airlock("shell", job, "--", "sh", "-c", "echo from the administrator > reply; touch /tmp/go")
	result := execution.Wait()
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "\nfrom the administrator\n", "the job sees what the shell wrote")
	require.Equal(t, "[]\n", b.airlock("ps", "--json"))
	b.refused(b.ask("", "shell", job, "--", "true"), 1, "no living job or sandbox")
}

// commandsBesideTheJob looks at `airlock shell JOB -- COMMAND`.
func (b *bench) commandsBesideTheJob(t *testing.T, job string) {
	require.Equal(t, answer{"written by the job\n", "", 0}, b.ask("", "shell", job, "--", "cat", "note"), "in the project's directory")
	require.Equal(t, answer{"given\n", "oh\n", 7}, b.ask("given\n", "shell", job, "--", "sh", "-c", "cat; echo oh >&2; exit 7"))
	require.Contains(t, b.airlock("shell", job, "--", "ps"), "/.airlock/scripts/stage-", "the job's script runs beside it")
	require.Contains(t, b.airlock("shell", "--helper", job, "--", "git", "log", "--oneline"), "a commit", "the helper root has git and the same files")
	b.refused(b.ask("", "shell", job, "--", "nonesuch"), 1, `command "nonesuch" not found`)

	vanishing := b.Airlock("shell", job, "--", "sleep", "4321")
	require.NoError(t, vanishing.Start())
	sleeps := func() bool { return strings.Contains(b.airlock("shell", job, "--", "ps"), "sleep 4321") }
	require.Eventually(t, sleeps, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, vanishing.Process.Kill())
	_ = vanishing.Wait()
	require.Eventually(t, func() bool { return !sleeps() }, 10*time.Second, 20*time.Millisecond, "a command outlived the administrator who gave it")
}

func TestAnAdministratorRunsCommandsWithoutGitLab(t *testing.T) {
	b := start(t, system.Options{Tables: "[hypervisor]\nqemu = \"no-such-qemu\"\n"})
	image := b.registry + "/busybox"
	run := func(args ...string) []string { return append([]string{"run", "--image", image}, args...) }
	b.airlock("image", "pull", image)
	b.airlock(run("--", "true")...) // so that the helper image is there, too

	t.Run("streams and status", func(t *testing.T) {
		b := b.in(t)
		require.Equal(t, answer{}, b.ask("", run("--", "true")...), "nothing but the command's own output")
		require.Equal(t, answer{"given", "oh\n", 3}, b.ask("given", run("--", "sh", "-c", "cat; echo oh >&2; exit 3")...))
		require.Equal(t, 137, b.ask("", run("--", "sh", "-c", "kill -9 $$")...).status)
		require.Equal(t, "1048576\n", b.ask(strings.Repeat("x", 1<<20), run("--", "wc", "-c")...).stdout)
		require.Equal(t, "1,2\n", b.ask("", run("--env", "A=1,2", "--", "sh", "-c", "echo $A")...).stdout)
		require.Equal(t, "", b.ask("", run("--", "cat")...).stdout, "an input that ends at once")
	})
	t.Run("networks", func(t *testing.T) {
		b := b.in(t)
		require.Equal(t, "lo\n", b.ask("", run("--network", "none", "--", "ls", "/sys/class/net")...).stdout)
		require.Equal(t, "eth0\nlo\n", b.ask("", run("--", "ls", "/sys/class/net")...).stdout)
		_, port, _ := strings.Cut(strings.TrimPrefix(b.gitlab.URL, "http://"), ":")
		connect := []string{"--", "nc", "-w", "3", b.Gateway, port}
		require.Zero(t, b.ask("", run(connect...)...).status, "the address that the configuration allows")
		require.Equal(t, 1, b.ask("", run(append([]string{"--network", "none"}, connect...)...)...).status)
	})
	t.Run("a terminal", func(t *testing.T) {
		b := b.in(t)
		s := b.terminal(run("--tty", "--", "sh", "-c", "tty; stty size; read line; echo read $line")...)
		s.shows("/dev/pts/0\r\n33 111\r\n")
		s.types("abc\r")
		s.shows("read abc\r\n")
		require.Zero(t, s.ends())

		shell := b.terminal(run()...) // no command: an interactive shell
		shell.types("echo $((40+2))\r")
		shell.shows("42\r\n")
		shell.types("\x04")
		require.Zero(t, shell.ends())
		b.refused(b.ask("", run("--tty", "--", "true")...), 1, "stdin is not a terminal")
	})
	t.Run("signals", func(t *testing.T) {
		b := b.in(t)
		s := b.terminal(run("--", "sh", "-c", "trap 'echo ending; exit 9' TERM; echo ready; while :; do sleep 0.05; done")...)
		s.shows("ready")
		require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
		s.shows("ending")
		require.Equal(t, 9, s.ends())
	})
	t.Run("a caller that vanishes", func(t *testing.T) {
		b := b.in(t)
		cmd := b.Airlock(run("--", "sleep", "1000")...)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { all := b.ps(); return len(all) == 1 && all[0].State == "running" }, 10*time.Second, 20*time.Millisecond)
		require.Zero(t, b.ps()[0].JobID)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		b.nothingLives()
	})
	t.Run("refusals", func(t *testing.T) {
		b := b.in(t)
		b.refused(b.ask("", "run", "--", "true"), 1, "no image")
		b.refused(b.ask("", "run", "--image", b.registry+"/absent", "--", "true"), 1, "/absent: not found")
		b.refused(b.ask("", run("--isolation", "hypervisor", "--", "true")...), 2, "no runtime for hypervisor isolation", "airlock doctor")
		b.refused(b.ask("", run("--isolation", "some", "--", "true")...), 1, `unknown isolation "some"`)
		b.refused(b.ask("", run("--network", "host", "--", "true")...), 1, `unknown network "host"`)
		b.refused(b.ask("", run("--", "nonesuch")...), 1, `command "nonesuch" not found`)
	})
	require.Equal(t, "[]\n", b.airlock("ps", "--json"))
}

func TestAnAdministratorKeepsTheImages(t *testing.T) {
	b := start(t, system.Options{StateDir: t.TempDir()})
	image := b.registry + "/busybox"
	archive := must(images.Bash(context.Background()))
	list := func() map[string]int64 {
		var reply struct {
			Images []struct {
				Name      string
				SizeBytes int64 `json:"size_bytes"`
			}
			UsedBytes int64 `json:"used_bytes"`
		}
		require.NoError(t, json.Unmarshal([]byte(b.airlock("image", "ls", "--json")), &reply))
		sizes := map[string]int64{}
		for _, i := range reply.Images {
			sizes[i.Name] = i.SizeBytes
		}
		require.Equal(t, len(sizes) > 0, reply.UsedBytes > 0)
		return sizes
	}
	require.Empty(t, list())

	require.Contains(t, b.airlock("image", "pull", image), "Pulled image "+image)
	require.Greater(t, list()[image+":latest"], int64(500<<10))
	require.Regexp(t, `\n`+image+`:latest +sha256:[0-9a-f]{12} +\S+ .iB +\d+ +\d+s ago +0 +no\n`, b.airlock("image", "ls"))
	b.refused(b.ask("", "image", "pull", b.registry+"/absent"), 1, "/absent: not found")

	b.airlock("image", "import", "local/tools:1", archive)
	require.Equal(t, "5.\n", b.ask("", "run", "--image", "local/tools:1", "--", "bash", "-c", "echo ${BASH_VERSION:0:2}").stdout)
	content, err := os.ReadFile(archive)
	require.NoError(t, err)
	imported := b.ask(string(content), "image", "import", "local/tools:2", "-")
	require.Zero(t, imported.status, imported.stderr)
	require.Regexp(t, `^Imported local/tools:2, sha256:[0-9a-f]{64}\n$`, imported.stdout)
	require.Zero(t, b.ask("", "run", "--image", "local/tools:2", "--", "true").status)
	known := len(list())
	b.refused(b.ask("no tar", "image", "import", "local/broken:1", "-"), 1, "reading the image")
	b.refused(b.ask("", "image", "import", "local/broken:1", "/nonexistent"), 1, "/nonexistent")
	require.Len(t, list(), known, "what cannot be read leaves nothing")

	using := b.Airlock("run", "--image", image, "--", "sleep", "1000")
	require.NoError(t, using.Start())
	require.Eventually(t, func() bool { all := b.ps(); return len(all) == 1 && all[0].State == "running" }, 10*time.Second, 20*time.Millisecond)
	b.refused(b.ask("", "image", "rm", image), 1, "in use")
	require.NoError(t, using.Process.Signal(syscall.SIGTERM))
	_ = using.Wait()
	b.nothingLives()
	require.Regexp(t, `^removed \S+/busybox, \S+ \S*B freed\n$`, b.airlock("image", "rm", image))
	require.NotContains(t, list(), image+":latest")
	b.refused(b.ask("", "image", "rm", image), 1, "is not in the cache", "airlock image ls")
	require.Contains(t, b.airlock("run", "--image", image, "--", "echo", "pulled again"), "pulled again")
}

func TestAReloadCountsForTheNextJob(t *testing.T) {
	b := start(t, system.Options{Config: "image = \"IMAGE\"\n"})
	busybox := archived(t, must(images.Busybox(context.Background())))
	other := b.push(asUser(t, busybox, "1234:4321"), "other")
	reload := func(said string, replace ...string) {
		t.Helper()
		require.NoError(t, b.Reload(said, replace...), "%s", b.Log())
	}
	const done, refused = system.Reloaded, system.NotReloaded

	reload(done, `"IMAGE"`, fmt.Sprintf("%q", b.registry+"/busybox"))
	b.airlock("run", "--", "true") // so that the images are there
	require.Equal(t, "0\n", b.airlock("run", "--", "id", "-u"))
	execution, job := b.livingJob()
	reload(done, b.registry+"/busybox", other, `"512m"`, `"64m"`, `scratch_size = "2g"`, "scratch_size = \"1g\"\npids_limit = 99\nnetwork_mode = \"none\"")
	require.Equal(t, "1234\n", b.airlock("run", "--", "id", "-u"), "the new image")
	require.Equal(t, "lo\n", b.airlock("run", "--", "ls", "/sys/class/net"), "the new network mode")
	next := b.Airlock("run", "--", "sleep", "1000")
	require.NoError(t, next.Start())
	require.Eventually(t, func() bool { all := b.ps(); return len(all) == 2 && all[1].State == "running" }, 10*time.Second, 20*time.Millisecond)
	s := b.inspect(b.ps()[1].ID)
	require.Equal(t, []int64{64 << 20, 99, 1 << 30}, []int64{s.MemoryLimitBytes, s.PIDsLimit, s.ScratchBytes}, "the new limits")
	require.EqualValues(t, 512<<20, b.inspect(job).MemoryLimitBytes, "a living job keeps its own")
	require.NoError(t, next.Process.Signal(syscall.SIGTERM))
	_ = next.Wait()

	reload(refused, "pids_limit = 99", "pids_limit = \"many\"\nnonesuch = 1")
	require.Contains(t, b.Log(), "pids_limit: ")
	require.Regexp(t, `config\.toml:\d+:\d+: nonesuch: unknown key`, b.Log())
	require.Equal(t, "1234\n", b.airlock("run", "--", "id", "-u"), "the old one stays in force")
	reload(done, "pids_limit = \"many\"\nnonesuch = 1", "pids_limit = 98")

	b.airlock("shell", job, "--", "touch", "reply", "/tmp/go")
	result := execution.Wait()
	require.True(t, result.Success, result.Log)
}

func TestMistakesInAConfigurationAreFound(t *testing.T) {
	b := start(t, system.Options{})
	require.Equal(t, b.ConfigPath+" is valid\n", b.airlock("config", "check", b.ConfigPath))

	wrong := filepath.Join(t.TempDir(), "wrong.toml")
	require.NoError(t, os.WriteFile(wrong, []byte("isolation = \"proces\"\n  memmory = \"2g\"\n[network]\nsubnet = \"10.0.0.0/40\"\n"), 0o644))
	a := b.ask("", "config", "check", wrong)
	b.refused(a, 1, wrong+":1:13: isolation: ", wrong+":2:3: memmory: unknown key; did you mean memory?", wrong+":4:10: network.subnet: ")
	require.Len(t, strings.Split(strings.TrimSpace(a.stderr), "\n"), 3, "one line for each")
	serve := b.ask("", "serve", "--config", wrong)
	b.refused(serve, 1, wrong+":1:13: isolation: ")

	report := b.airlock("doctor", "--config", b.ConfigPath)
	require.Contains(t, report, b.ConfigPath)
	require.NotRegexp(t, `(?m)^fail `, report)
	require.Regexp(t, `(?m)^ok +service +.*`+b.Socket, report)
	broken := b.ask("", "doctor", "--config", wrong)
	require.Equal(t, 1, broken.status)
	require.Regexp(t, `(?m)^fail +configuration +`, broken.stdout)
}

// nobody returns a command line of the administrator's as somebody else gives it.
func (b *bench) nobody(group uint32, args ...string) *exec.Cmd {
	b.t.Helper()
	dir, err := os.MkdirTemp("", "airlock-nobody-")
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := os.ReadFile(filepath.Join(b.Bin, "airlock"))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, "airlock"), program, 0o755))
	require.NoError(b.t, os.Chmod(dir, 0o755))
	require.NoError(b.t, os.Chmod(b.Dir, 0o755)) // as /run is
	cmd := b.Airlock(args...)
	cmd.Path, cmd.Dir = filepath.Join(dir, "airlock"), dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: group}}
	return cmd
}

func TestWhoMayAskAndWhatAStoppedServiceSays(t *testing.T) {
	b := start(t, system.Options{})
	for _, args := range [][]string{{"ps"}, {"run", "--", "true"}, {"logs"}, {"reap"}} {
		b.refused(b.answer(b.nobody(65534, args...), ""), 1, "may not use "+b.Socket, "run the command as root")
		b.refused(b.answer(b.nobody(0, args...), ""), 1, "needs root; user 65534 is not")
	}
	require.Equal(t, 0, b.answer(b.nobody(65534, "version"), "").status)

	require.NoError(t, b.Stop())
	for _, args := range [][]string{{"ps"}, {"inspect", "1"}, {"image", "ls"}, {"run", "--", "true"}, {"shell", "1", "--", "true"}, {"logs"}, {"reap"}} {
		b.refused(b.ask("", args...), 1, "does not answer on "+b.Socket, "airlock service start")
	}
	require.Regexp(t, `(?m)^warn +service +not running`, b.ask("", "doctor", "--config", b.ConfigPath).stdout)
}

// terminal is a command of the administrator's on a pseudo-terminal of 33 rows and 111 columns, with a person
// who types and reads.
type terminal struct {
	t        *testing.T
	cmd      *exec.Cmd
	keyboard *os.File
	done     chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

func (b *bench) terminal(args ...string) *terminal {
	b.t.Helper()
	s := &terminal{t: b.t, cmd: b.Airlock(args...), done: make(chan struct{})}
	var err error
	s.keyboard, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 33, Cols: 111})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _, _ = s.keyboard.Close(), s.cmd.Process.Kill() })
	go s.read()
	return s
}

func (s *terminal) read() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, err := s.keyboard.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return // the terminal has been closed
		}
	}
}

func (s *terminal) screen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *terminal) shows(text string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return strings.Contains(s.screen(), text) }, 10*time.Second, 5*time.Millisecond,
		"the screen never showed %q", text)
}

func (s *terminal) types(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.keyboard, keys)
	require.NoError(s.t, err)
}

// ends waits for the command's end and returns its status.
func (s *terminal) ends() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		require.Fail(s.t, "the command did not end", "%s", s.screen())
	}
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}
