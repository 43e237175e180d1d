package conformance

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// posix is the roots of testing/rootfs: Linux with a shell and busybox.
type posix struct{}

// sh runs a line of shell with arguments.
func sh(line string, args ...string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Args: append([]string{"sh", "-c", line, "sh"}, args...)}
}

func (posix) say(text string) isolation.ProcessSpec { return sh(`echo "$1"`, text) }

func (posix) exit(code int) isolation.ProcessSpec { return sh(`exit "$1"`, strconv.Itoa(code)) }

func (posix) live() isolation.ProcessSpec {
	return sh("trap '' TERM INT HUP; setsid sleep 1001 & echo up; while :; do sleep 1; done")
}

func (posix) cat() isolation.ProcessSpec { return isolation.ProcessSpec{Args: []string{"cat"}} }

func (posix) show(args ...string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Args: append([]string{"printf", "<%s>"}, args...)}
}

func (posix) variables(names ...string) isolation.ProcessSpec {
	return sh(`echo "$` + strings.Join(names, " $") + `"`)
}

func (posix) directory() isolation.ProcessSpec { return isolation.ProcessSpec{Args: []string{"pwd"}} }

func (posix) list(dir string) isolation.ProcessSpec {
	return sh(`ls "$1" || echo "there is none"`, dir)
}

func (posix) write(path, text string) isolation.ProcessSpec {
	return sh(`printf %s "$2" > "$1"`, path, text)
}

func (posix) read(path string) isolation.ProcessSpec {
	return isolation.ProcessSpec{Args: []string{"cat", path}}
}

func (posix) count(numbers, code int) isolation.ProcessSpec {
	return sh(`seq 1 "$1" & seq 1 "$1" >&2 & wait; exit "$2"`, strconv.Itoa(numbers), strconv.Itoa(code))
}

func (posix) script() isolation.ProcessSpec {
	return isolation.ProcessSpec{Script: []byte("set -e\nA=1\necho \"line $A\"\ncat\necho err >&2\nexit 42\n")}
}

func (posix) longScript() isolation.ProcessSpec { // 2 MiB
	return isolation.ProcessSpec{Script: []byte("echo start\n" + strings.Repeat(": 'padding of a long script, as runners generate them'\n", 40000) + "echo end\n")}
}

func (posix) leaving() []isolation.ProcessSpec {
	var processes []isolation.ProcessSpec
	for _, line := range []string{
		"sleep 1006 &",
		"setsid sleep 1006 &",
		"(setsid sh -c 'trap \"\" HUP TERM; sleep 1006; :' &)",
		"nohup sleep 1006 >/dev/null 2>&1 &",
	} {
		processes = append(processes, isolation.ProcessSpec{Script: []byte(line + "\necho main\nexit 4\n")})
	}
	return processes
}

func (posix) left(t testing.TB, b box, _ isolation.Stats) bool {
	t.Helper()
	return b.running(t, "sleep 1006")
}

func (posix) places() places {
	return places{
		absent: "/does/not/exist", own: "/etc/mine", image: "/etc/os-release", imageText: rootfs.OSRelease, scripts: isolation.ScriptDir,
		dirs: map[string]string{"/usr/bin": "/usr/bin", "": "/builds", "/no/such/directory": "/builds"},
	}
}

func (posix) otherExits() map[string]ended {
	return map[string]ended{
		"killed":     {sh("kill -9 $$"), isolation.Exit{Code: 137, Signal: 9}},
		"terminated": {sh("kill -TERM $$"), isolation.Exit{Code: 143, Signal: 15}},
	}
}

func (posix) refused() map[string]func(*isolation.Spec) {
	return map[string]func(*isolation.Spec){
		"unknown user": func(s *isolation.Spec) { s.Image.Config.User = "nobody-of-that-name" },
	}
}

func (posix) promises() []promise {
	return []promise{
		{"look-up in PATH", false, posixLookUp},
		{"nothing of the executor's environment", false, posixEnvironment},
		{"users", false, posixUsers},
		{"scripts of other users", false, posixScripts},
		{"signal reaches the whole tree", false, posixSignalTree},
		{"kill ends the whole tree", false, posixKillTree},
		{"interactive processes outlive a stage", false, posixInteractive},
		{"terminal", false, posixTerminal},
		{"helper stages", true, posixHelper},
		{"without a helper root", false, posixNoHelper},
		{"caches of several users", false, posixCaches},
		{"the scratch takes every kind of change", true, posixScratch},
		{"names", true, posixNames},
		{"localhost", true, posixLocalhost},
		{"ping", true, posixPing},
		{"run directory", true, posixRun},
		{"no network", true, posixNoNetwork},
		{"sandboxes do not see each other", true, posixNeighbours},
		{"memory limit", true, posixMemoryLimit},
		{"process limit", true, posixProcessLimit},
		{"cpu limit", true, posixCPULimit},
		{"nothing that a job does stops the next stages", false, posixOwnDirectory},
		{"a shell that the job removed", false, posixShellRemoved},
		{"directories that the user cannot enter", false, posixUnenterable},
		{"odd images are the author's failure", true, posixOddImages},
		{"odd users and working directories", false, posixOddUsers},
		{"streams by name", false, posixStreams},
		{"limits of each process", true, posixRlimits},
	}
}

// shell runs a line of shell and returns its output, which must come with status 0.
func (b box) shell(t testing.TB, line string) string {
	t.Helper()
	r := b.run(t, sh(line))
	require.Zero(t, r.Code, "%s\nstdout: %s\nstderr: %s", line, r.stdout, r.stderr)
	return r.stdout
}

// running says whether a process with this word in its command line lives in the sandbox.
func (b box) running(t testing.TB, word string) bool {
	t.Helper()
	// The word is split in two so that the search does not find itself.
	return strings.TrimSpace(b.shell(t, fmt.Sprintf("ps -o args | grep -c '[%c]%s' || true", word[0], word[1:]))) != "0"
}
