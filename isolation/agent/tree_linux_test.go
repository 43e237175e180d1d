package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// daemon leaves a process behind that has left its session and lost its parent.
const daemon = `setsid sh -c 'sleep 1000 & sleep 1001 & exit 0' </dev/null >/dev/null 2>&1; `

func TestEverythingEndsWithTheStage(t *testing.T) {
	for name, o := range map[string]sandboxOptions{"PID 1": {}, "subreaper": {noPID1: true}} {
		t.Run(name, func(t *testing.T) {
			bystander := exec.Command("sleep", "1000")
			require.NoError(t, bystander.Start())
			defer func() { bystander.Process.Kill(); bystander.Wait() }()

			s := startSandbox(t, o)
			lives := func(pid string) bool { return exec.Command("kill", "-0", pid).Run() == nil }
			// The pids are those of the agent's namespace: only the subreaper's are the host's, too.
			for what, script := range map[string]string{
				"background":   "sleep 1000 & echo $!",
				"double fork":  "(sleep 1000 & echo $!) & wait",
				"daemon":       daemon + "echo done",
				"many":         "for i in $(seq 50); do (sleep 1000 &) ; done; echo done",
				"ignores TERM": "sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & echo $!",
				"stopped":      "sleep 1000 & kill -STOP $!; echo $!",
			} {
				begin := time.Now()
				got := s.sh(script)
				require.Less(t, time.Since(begin), 5*time.Second, what)
				if o.noPID1 {
					if _, err := strconv.Atoi(got); err == nil {
						require.False(t, lives(got), what)
					}
					require.Empty(t, children(t, s.pid), what)
					continue
				}
				require.Empty(t, s.others(), what)
			}
			require.True(t, lives(strconv.Itoa(bystander.Process.Pid)), "a foreign process was killed")
		})
	}
}

func children(t *testing.T, pid int) []string {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	var pids []string
	for _, thread := range threads {
		text, _ := os.ReadFile(thread) // the thread may have ended
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

func TestOutputHolderDoesNotHoldUpTheEnd(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	// The daemon inherits stdout: without the kill it would never end.
	got := s.run(isolation.ProcessSpec{Script: []byte("setsid sleep 1000 & printf end")})
	require.Equal(t, "end", got.stdout)
}

func TestZombiesAreReaped(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	p := s.begin(isolation.ProcessSpec{Script: []byte("for i in $(seq 100); do (sh -c 'exit 7' &) ; done; sleep 1000")})
	s.eventually("only the script's shell and its sleep are left", func() bool {
		left := s.others()
		return len(left) == 2 && !strings.Contains(strings.Join(left, ""), ") Z")
	})
	require.NoError(t, p.Signal(soon(t), 9))
	s.wait(p)
	require.Empty(t, s.others())
}

func TestTermReachesTheWholeTreeOnce(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	var out syncbuf.Buffer
	p := s.begin(isolation.ProcessSpec{Stdout: &out, Script: []byte(`
		trap 'echo main got it; while [ "$(wc -l < /tmp/log)" != 2 ]; do sleep 0.01; done; exit 3' TERM
		touch /tmp/log
		sh -c 'trap "echo child got it >> /tmp/log; exit" TERM; touch /tmp/ready1; while :; do sleep 0.01; done' &
		setsid sh -c 'trap "echo daemon got it >> /tmp/log; exit" TERM; touch /tmp/ready2; while :; do sleep 0.01; done' &
		while [ ! -e /tmp/ready1 -o ! -e /tmp/ready2 ]; do sleep 0.01; done; echo ready
		sleep 1000 & wait
	`)})
	s.eventually("ready", func() bool { return strings.Contains(out.String(), "ready") })
	require.NoError(t, p.Signal(soon(t), 15))
	require.Equal(t, isolation.Exit{Code: 3}, s.wait(p))
	require.Equal(t, "ready\nmain got it\n", out.String())
	// What follows in the same sandbox is not touched.
	require.Equal(t, "child got it\ndaemon got it", s.sh("sort /tmp/log"))
}

func TestTermMayBeIgnored(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	var out syncbuf.Buffer
	p := s.begin(isolation.ProcessSpec{Stdout: &out, Script: []byte("trap '' TERM; echo ready; while :; do sleep 0.01; done")})
	s.eventually("ready", func() bool { return strings.Contains(out.String(), "ready") })
	require.NoError(t, p.Signal(soon(t), 15))
	require.NoError(t, p.Signal(soon(t), 9))
	require.Equal(t, isolation.Exit{Code: 137, Signal: 9}, s.wait(p))
	require.NoError(t, p.Signal(soon(t), 15), "an ended process needs no signal")
	require.Error(t, p.Signal(soon(t), 0))
	require.Error(t, p.Signal(soon(t), 65))
}

func TestSessionsOutliveStages(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	session := s.begin(isolation.ProcessSpec{Interactive: true, Script: []byte("(sleep 999 &); while :; do sleep 998; done")})
	s.eventually("the session's processes", func() bool { return len(s.others()) == 3 })
	s.sh(daemon + "sleep 1000 & true")
	require.Len(t, s.others(), 3, "the stage took its own processes and only them")

	t.Run("but a session's end spares stages", func(t *testing.T) {
		stage := s.begin(isolation.ProcessSpec{Script: []byte(daemon + "sleep 1002")})
		s.eventually("the stage's processes", func() bool { return len(s.others()) == 3+4 })
		require.NoError(t, session.Signal(soon(t), 9))
		require.Equal(t, 137, s.wait(session).Code)
		require.Len(t, s.others(), 4)
		require.NoError(t, stage.Signal(soon(t), 9))
		s.wait(stage)
		require.Empty(t, s.others())
	})
}

// TestRabbits kills processes that never live long: each starts its successor and ends. A list of process ids is
// out of date before it is read to the end. Their number stays the same, for the sake of the host.
func TestRabbits(t *testing.T) {
	for _, c := range []struct {
		name, rabbit string
		session      bool
	}{
		{"alone", "/tmp/rabbit &", false},
		{"alone, with sessions of their own", "setsid /tmp/rabbit &", false},
		{"beside an administrator's session", "/tmp/rabbit &", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSandbox(t, sandboxOptions{change: func(root string) {
				require.NoError(t, os.WriteFile(root+"/tmp/rabbit", []byte("#!/bin/sh\n"+c.rabbit+"\n"), 0o755))
			}})
			want := 0
			if c.session {
				s.begin(isolation.ProcessSpec{Interactive: true, Args: []string{"sleep", "1000"}})
				want = 1
			}
			p := s.begin(isolation.ProcessSpec{Script: []byte("for i in $(seq 20); do /tmp/rabbit & done; sleep 1000")})
			s.eventually("they are many", func() bool { return len(s.others()) > 5 })
			require.NoError(t, p.Signal(soon(t), 9))
			require.Equal(t, 137, s.wait(p).Code)
			require.Len(t, s.others(), want)
			time.Sleep(50 * time.Millisecond)
			require.Len(t, s.others(), want)
		})
	}
}

func TestEndOfConnectionEndsEverything(t *testing.T) {
	for name, o := range map[string]sandboxOptions{"PID 1": {}, "subreaper": {noPID1: true}} {
		t.Run(name, func(t *testing.T) {
			s := startSandbox(t, o)
			p := s.begin(isolation.ProcessSpec{Script: []byte(daemon + "sleep 1000")})
			s.begin(isolation.ProcessSpec{Interactive: true, Script: []byte(daemon + "sleep 1000")})
			var pids []string
			s.eventually("it runs", func() bool { pids = children(t, s.pid); return len(pids) == 2+2*2 })
			require.NoError(t, s.Close())
			_, err := waitWithin(t, p, 5*time.Second)
			require.ErrorIs(t, err, isolation.ErrSandboxGone)
			_, err = s.Start(soon(t), isolation.ProcessSpec{Script: []byte("true")})
			require.ErrorIs(t, err, isolation.ErrSandboxGone)
			require.ErrorIs(t, p.Signal(soon(t), 9), nil)
			for _, pid := range pids {
				s.eventually("process "+pid+" ends", func() bool {
					_, err := os.Stat("/proc/" + pid)
					return os.IsNotExist(err)
				})
			}
		})
	}
}

func TestDeathOfTheAgent(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	p := s.begin(isolation.ProcessSpec{Script: []byte(daemon + "sleep 1000")})
	s.killed = true
	require.NoError(t, s.cmd.Process.Kill())
	_, err := waitWithin(t, p, 5*time.Second)
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
	<-s.Done()
	_, err = s.Ping(soon(t))
	require.ErrorIs(t, err, isolation.ErrSandboxGone)
}

func TestManyCommandsLeakNothing(t *testing.T) {
	s := startSandbox(t, sandboxOptions{})
	descriptors := func(pid string) int {
		entries, err := os.ReadDir("/proc/" + pid + "/fd")
		require.NoError(t, err)
		return len(entries)
	}
	agentPID := strconv.Itoa(s.pid)
	var agentBefore, ownBefore int
	for i := range 1000 {
		spec := isolation.ProcessSpec{Script: []byte("echo " + strconv.Itoa(i))}
		if i%10 == 0 {
			spec = isolation.ProcessSpec{Args: []string{"cat"}, Stdin: strings.NewReader(strconv.Itoa(i) + "\n")}
		}
		require.Equal(t, strconv.Itoa(i)+"\n", s.run(spec).stdout)
		if i == 20 {
			agentBefore, ownBefore = descriptors(agentPID), descriptors("self")
		}
	}
	require.LessOrEqual(t, descriptors(agentPID), agentBefore)
	require.LessOrEqual(t, descriptors("self"), ownBefore+1)
	require.Empty(t, s.others())
	status, err := os.ReadFile("/proc/" + agentPID + "/status")
	require.NoError(t, err)
	require.Less(t, field(t, status, "Threads"), 25)
	require.Less(t, field(t, status, "VmHWM"), 40<<10, "KiB")
	// goleak looks for the client's goroutines at the end of the test
}

func field(t *testing.T, status []byte, name string) int {
	_, rest, ok := bytes.Cut(status, []byte("\n"+name+":"))
	require.True(t, ok, name)
	n, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
	require.NoError(t, err)
	return n
}
