//go:build linux

package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/identity"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// rig is a run directory with an executor's binary and configuration, and the supervisors started on it.
type rig struct {
	t      *testing.T
	opts   settings
	script script
	socket string
	all    []*process
	files  []*os.File // that the next supervisor gets, as descriptors 3, 4, ...
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, script: script{Notes: filepath.Join(dir, "notes")}}
	require.NoError(t, os.Mkdir(r.script.Notes, 0o700))
	run, err := os.MkdirTemp("/tmp", "al-sup-") // sockets' paths are limited to 107 bytes
	require.NoError(t, err)
	require.NoError(t, os.Chmod(run, 0o755))
	r.opts = settings{
		ConfigPath: filepath.Join(dir, "config"), ExecutorPath: filepath.Join(dir, "airlock-executor"), RunDir: run,
	}
	r.socket = DefaultSocket(run)
	r.install("")
	r.configure()
	t.Cleanup(r.tearDown)
	return r
}

// install puts an executor's binary in place; a tail makes it another build.
func (r *rig) install(tail string) {
	self, err := os.Executable()
	require.NoError(r.t, err)
	text, err := os.ReadFile(self)
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(r.opts.ExecutorPath+".new", append(text, tail...), 0o755))
	require.NoError(r.t, os.Rename(r.opts.ExecutorPath+".new", r.opts.ExecutorPath))
}

func (r *rig) configure() {
	text, err := json.Marshal(r.script)
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(r.opts.ConfigPath, text, 0o600))
}

// tearDown ends everything and checks that no process is left that names the rig's files.
func (r *rig) tearDown() {
	for _, p := range r.all {
		p.kill()
	}
	require.NoError(r.t, StopExecutor(r.opts.RunDir, zerologTo(io.Discard)))
	require.Eventually(r.t, func() bool { return len(r.processes()) == 0 }, 20*time.Second, 20*time.Millisecond,
		"processes are left: %v", r.processes())
	require.NoError(r.t, os.RemoveAll(r.opts.RunDir))
}

// processes lists the living processes whose command line names the run directory.
func (r *rig) processes() []string {
	var found []string
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(r.t, err)
	for _, path := range lines {
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte(r.opts.RunDir)) {
			found = append(found, path+": "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

// process is one `airlock serve`.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *syncbuf.Buffer
	done chan struct{}
	err  error
}

// start starts a supervisor, with additions to its environment, without waiting for it.
func (r *rig) start(env ...string) *process {
	r.t.Helper()
	options, err := json.Marshal(r.opts)
	require.NoError(r.t, err)
	p := &process{t: r.t, log: &syncbuf.Buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], string(options))
	if len(r.files) > 0 { // systemd names the process that they are for
		p.cmd = exec.Command("sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`, os.Args[0], string(options))
		p.cmd.ExtraFiles = r.files
	}
	p.cmd.Env = append(append(os.Environ(), testRole+"=supervisor", "SECRET_OF_THE_SERVICE=1"), env...)
	reader, writer, err := os.Pipe()
	require.NoError(r.t, err)
	p.cmd.Stderr = writer
	require.NoError(r.t, p.cmd.Start())
	_ = writer.Close()
	copied := make(chan struct{})
	go func() { defer close(copied); _, _ = io.Copy(p.log, reader); _ = reader.Close() }()
	go func() { p.err = p.cmd.Wait(); <-copied; close(p.done) }()
	r.all = append(r.all, p)
	return p
}

// up starts a supervisor and waits until callers can connect.
func (r *rig) up(env ...string) *process {
	r.t.Helper()
	p := r.start(env...)
	p.awaitLog("listening")
	return p
}

func (p *process) signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// wait returns how the supervisor ended.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(15 * time.Second):
		p.t.Fatalf("the supervisor does not end:\n%s", p.log)
		return nil
	}
}

func (p *process) awaitLog(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.log.String(), text) },
		20*time.Second, 5*time.Millisecond, "no %q in the log:\n%v", text, p.log)
}

// executor returns the executor that the record names, once there is one.
func (r *rig) executor() record {
	r.t.Helper()
	var found record
	require.Eventually(r.t, func() bool {
		var err error
		if found, err = readRecord(paths{r.opts.RunDir}.record()); err != nil {
			return false
		}
		return alive(found.Process)
	}, 20*time.Second, 5*time.Millisecond, "no living executor is recorded")
	return found
}

func alive(p identity.Process) bool {
	held, err := identity.Open(p)
	if err != nil {
		return false
	}
	held.Close()
	return true
}

// awaitNote returns what the executor noted, within so long.
func (r *rig) awaitNote(name string, within time.Duration) string {
	r.t.Helper()
	path := filepath.Join(r.script.Notes, name)
	var text []byte
	require.Eventually(r.t, func() bool {
		var err error
		text, err = os.ReadFile(path)
		return err == nil
	}, within, 5*time.Millisecond, "the executor did not note %q", name)
	return string(text)
}

// peakRSS returns the most memory, in bytes, that a process ever had resident.
func peakRSS(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	require.NotNil(t, match)
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	require.NoError(t, err)
	return kib << 10
}
