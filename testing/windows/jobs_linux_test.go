//go:build wine

package windows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim"
	"github.com/airlock-ci/airlock/testing/hcssim/layertar"
	"github.com/airlock-ci/airlock/testing/syncbuf"
)

// host is an Airlock service on a simulated machine.
type host struct {
	t      *testing.T
	sim    *hcssim.Sim
	serve  *exec.Cmd
	log    syncbuf.Buffer
	ended  chan struct{}
	native string // the directory of the programs, and its name on the machine
}

// home is not C:\Airlock: the simulator's shared guests have the host's C:, and would find their own mapped directories there.
const home = `C:\AirlockHost`

// newHost installs the three programs, an image and a configuration, and starts the service with more environment.
func newHost(t *testing.T, configuration string, env ...string) *host {
	t.Helper()
	s := hcssim.Start(t, hcssim.Options{KeepLeaks: true})
	h := &host{t: t, sim: s, native: filepath.Join(s.Drive(), "AirlockHost")}
	require.NoError(t, os.MkdirAll(filepath.Join(h.native, "helper"), 0o755))
	for _, name := range []string{"airlock", "airlock-driver", "airlock-executor"} {
		program, err := os.ReadFile(hcssim.Program(t, "./cmd/"+name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(h.native, name+".exe"), program, 0o755))
	}
	writeImage(t, filepath.Join(h.native, "image"), "10.0.20348.2700")
	text := "isolation = \"process\"\nimage = 'oci:" + home + "\\image'\nlog_level = \"debug\"\ndns = [\"192.0.2.53\"]\n" + configuration +
		"\n[windows]\nhelper_dir = '" + home + "\\helper'\n"
	require.NoError(t, os.WriteFile(filepath.Join(h.native, "config.toml"), []byte(text), 0o644))
	h.start(env...)
	return h
}

// writeImage writes an OCI layout with an image of two layers, made for a build of Windows.
func writeImage(t *testing.T, dir, version string) {
	t.Helper()
	base := layertar.Base(layertar.BaseOptions{Build: 20348, UtilityVM: true, Files: map[string]string{"image/base.txt": "base"}})
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(base, types.OCIUncompressedLayer),
		static.NewLayer(layertar.Upper(map[string]string{"image/upper.txt": "upper"}), types.OCIUncompressedLayer))
	require.NoError(t, err)
	config, err := image.ConfigFile()
	require.NoError(t, err)
	config.OS, config.Architecture, config.OSVersion = "windows", "amd64", version
	config.Config.Env = []string{"GREETING=image"}
	image, err = mutate.ConfigFile(image, config)
	require.NoError(t, err)
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(image))
}

// start runs the service until the driver's pipe can be reached.
func (h *host) start(env ...string) {
	h.t.Helper()
	h.serve = h.sim.Command(home+`\airlock.exe`, "serve", "--config", home+`\config.toml`)
	h.serve.Env = append(h.serve.Env, env...)
	h.serve.Stdout, h.serve.Stderr = &h.log, &h.log
	h.serve.WaitDelay = time.Second // Wine hands the streams on to the executor, which goes on
	before := len(h.log.String())   // of an earlier service
	require.NoError(h.t, h.serve.Start())
	h.ended = make(chan struct{})
	go func(ended chan struct{}) { defer close(ended); _ = h.serve.Wait() }(h.ended)
	h.t.Cleanup(h.stop)
	require.Eventually(h.t, func() bool { return strings.Contains(h.log.String()[before:], `"message":"listening"`) }, 30*time.Second, 20*time.Millisecond,
		"the service does not listen: %s", lazy(h.log.String))
}

// lazy is evaluated when a message is printed.
type lazy func() string

func (l lazy) String() string { return l() }

// stop kills the service. The executor goes on; the end of the simulated machine ends it.
func (h *host) stop() {
	_ = h.serve.Process.Kill()
	select {
	case <-h.ended:
	case <-time.After(10 * time.Second):
		h.t.Error("the service does not end")
	}
}

// job is one job, driven as the runner does.
type job struct {
	host *host
	dir  string // on the machine
	env  []string
	last string // the last call's stdout, then its stderr
}

func (h *host) newJob(id int) *job {
	h.t.Helper()
	j := &job{host: h, dir: fmt.Sprintf(`%s\runner-%d`, home, id)}
	native := filepath.Join(h.native, fmt.Sprintf("runner-%d", id))
	require.NoError(h.t, os.MkdirAll(native, 0o700))
	response := fmt.Sprintf(`{"id": %d, "job_info": {"project_id": 42, "project_full_path": "group/project"},
		"git_info": {"repo_url": "http://gitlab-ci-token:secret@gitlab.example/group/project.git", "protected": true}, "image": {}}`, id)
	require.NoError(h.t, os.WriteFile(filepath.Join(native, "response.json"), []byte(response), 0o600))
	j.env = []string{
		"JOB_RESPONSE_FILE=" + j.dir + `\response.json`, "BUILD_FAILURE_EXIT_CODE=1", "SYSTEM_FAILURE_EXIT_CODE=2",
		"BUILD_EXIT_CODE_FILE=" + j.dir + `\exit-code`, "CUSTOM_ENV_CI_JOB_ID=" + fmt.Sprint(id),
	}
	return j
}

// call calls the driver and returns its exit code.
func (j *job) call(args ...string) int {
	j.host.t.Helper()
	command := j.host.sim.Command(home+`\airlock-driver.exe`, args...)
	command.Env = append(command.Env, j.env...)
	command.Dir = filepath.Join(j.host.native, filepath.Base(strings.ReplaceAll(j.dir, `\`, "/")))
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	require.NoError(j.host.t, command.Start())
	overdue := time.AfterFunc(60*time.Second, func() { _ = command.Process.Kill() })
	defer overdue.Stop()
	_ = command.Wait()
	j.last = strings.ReplaceAll(stdout.String()+stderr.String(), "\r\n", "\n")
	return command.ProcessState.ExitCode()
}

// begin calls config and prepare.
func (j *job) begin() int {
	j.host.t.Helper()
	require.Zero(j.host.t, j.call("config", "--shell", "cmd"), j.last)
	var reply struct {
		Shell     string            `json:"shell"`
		BuildsDir string            `json:"builds_dir"`
		JobEnv    map[string]string `json:"job_env"`
	}
	require.NoError(j.host.t, json.Unmarshal([]byte(j.last), &reply), j.last)
	require.Equal(j.host.t, "cmd", reply.Shell)
	require.Equal(j.host.t, `C:\builds`, reply.BuildsDir)
	for name, value := range reply.JobEnv {
		j.env = append(j.env, name+"="+value)
	}
	return j.call("prepare")
}

// stage runs a stage's script.
func (j *job) stage(name, script string) int {
	j.host.t.Helper()
	file := filepath.Join(j.host.native, filepath.Base(strings.ReplaceAll(j.dir, `\`, "/")), "script.cmd")
	require.NoError(j.host.t, os.WriteFile(file, []byte(script), 0o600))
	return j.call("run", "--shell", "cmd", j.dir+`\script.cmd`, name)
}

func (j *job) exitCode() string {
	text, _ := os.ReadFile(filepath.Join(j.host.native, filepath.Base(strings.ReplaceAll(j.dir, `\`, "/")), "exit-code"))
	return strings.TrimSpace(string(text))
}

func TestWholeJobsOnSimulatedWindows(t *testing.T) {
	h := newHost(t, "")
	j := h.newJob(7)
	require.Zero(t, j.begin(), "%s\nthe service's log:\n%s", j.last, tail(h.log.String()))
	require.Contains(t, j.last, "process isolation")
	require.Contains(t, j.last, "Windows Server Container")
	t.Log(j.last)
	require.Zero(t, j.stage("prepare_script", "@echo on %COMPUTERNAME%\r\n"), j.last)
	require.Contains(t, strings.ToLower(j.last), "on job-7-")
	require.Equal(t, 1, j.stage("build_script", "@echo %GREETING%\r\n@echo oops>&2\r\n@exit 42\r\n"), j.last)
	require.Equal(t, "42", j.exitCode())
	require.Contains(t, j.last, "image\n")
	require.Contains(t, j.last, "oops")
	require.Zero(t, j.stage("after_script", "@echo after\r\n"), j.last)
	require.Equal(t, "after\n", j.last)
	require.Zero(t, j.call("cleanup"), j.last)
	require.Equal(t, 2, j.stage("build_script", "@echo too late\r\n"), "after the cleanup there is no sandbox")

	again := h.newJob(8)
	require.Zero(t, again.begin(), again.last)
	require.Contains(t, again.last, "from cache")
	require.Zero(t, again.call("cleanup"), again.last)
	requireNothing(t, h)
}

// TestServiceRestartOnSimulatedWindows kills airlock serve while a job lives: the executor goes on, the next service finds
// it, and the job does not notice.
func TestServiceRestartOnSimulatedWindows(t *testing.T) {
	h := newHost(t, "")
	j := h.newJob(10)
	require.Zero(t, j.begin(), j.last)
	h.stop()
	h.start()
	require.Zero(t, j.stage("build_script", "@echo still here\r\n"), "%s\nthe service's log:\n%s", j.last, lazy(func() string { return tail(h.log.String()) }))
	require.Equal(t, "still here\n", j.last)
	require.Zero(t, j.call("cleanup"), j.last)
	requireNothing(t, h)
}

// TestKilledDriverOnSimulatedWindows ends a driver as taskkill /F does, or the end of the runner's job object: the stage
// it ran is ended, and the stages that follow run.
func TestKilledDriverOnSimulatedWindows(t *testing.T) {
	h := newHost(t, "")
	j := h.newJob(13)
	require.Zero(t, j.begin(), j.last)
	native := filepath.Join(h.native, "runner-13")
	require.NoError(t, os.WriteFile(filepath.Join(native, "endless.cmd"), []byte("@echo off\r\necho begun\r\n:again\r\ngoto again\r\n"), 0o600))
	run := h.sim.Command(home+`\airlock-driver.exe`, "run", "--shell", "cmd", j.dir+`\endless.cmd`, "build_script")
	run.Env, run.Dir = append(run.Env, j.env...), native
	var out syncbuf.Buffer
	run.Stdout, run.Stderr, run.WaitDelay = &out, &out, time.Second
	require.NoError(t, run.Start())
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "begun") }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, run.Process.Kill())
	_ = run.Wait()
	require.Eventually(t, func() bool { return strings.Contains(h.log.String(), "the caller is gone, ending what it ran") }, 60*time.Second, 50*time.Millisecond,
		"%s", lazy(func() string { return tail(h.log.String()) }))
	require.Zero(t, j.stage("after_script", "@echo after\r\n"), j.last)
	require.Equal(t, "after\n", j.last)
	require.Zero(t, j.call("cleanup"), j.last)
	requireNothing(t, h)
}

// TestDoctorOnSimulatedWindows has the doctor look at a machine that has no compute service.
func TestDoctorOnSimulatedWindows(t *testing.T) {
	h := newHost(t, "")
	out, err := h.sim.Run(home+`\airlock.exe`, "doctor", "--config", home+`\config.toml`)
	require.Error(t, err, "Wine's services are not Windows': %s", out)
	for _, check := range []string{"configuration", "build", "compute service", "Hyper-V", "state_dir", "virus scanner", "helper_dir", "airlock-executor"} {
		require.Contains(t, out, check)
	}
	require.Contains(t, out, "Install-WindowsFeature Containers")
	t.Log(out)
}

// TestRaisedJobOnSimulatedWindows has an image that cannot share the host's kernel.
func TestRaisedJobOnSimulatedWindows(t *testing.T) {
	h := newHost(t, "network_mode = \"none\"")
	require.NoError(t, os.RemoveAll(filepath.Join(h.native, "image")))
	writeImage(t, filepath.Join(h.native, "image"), "10.0.17763.6000")
	j := h.newJob(9)
	require.Zero(t, j.begin(), "%s\nthe service's log:\n%s", j.last, tail(h.log.String()))
	require.Contains(t, j.last, "Raised to hypervisor isolation")
	require.Contains(t, j.last, "17763")
	require.Zero(t, j.stage("build_script", "@echo hello\r\n"), j.last)
	require.Equal(t, "hello\n", j.last)
	require.Zero(t, j.call("cleanup"), j.last)
	requireNothing(t, h)
}

// TestCrashesOnSimulatedWindows kills the executor at each step of a job. The service starts another one, which removes
// what the dead one left, and the next job runs.
func TestCrashesOnSimulatedWindows(t *testing.T) {
	for _, point := range []string{
		"prepare/recorded", "prepare/intended-lease", "prepare/intended-scratch", "prepare/intended-network", "prepare/scratch-made",
		"prepare/network-made", "prepare/intended-sandbox", "sandbox/scratch-made", "sandbox/mounted", "sandbox/created", "sandbox/launched",
		"prepare/sandbox-made", "run/stage-started", "run/stage-ended", "cleanup/started", "cleanup/sandbox-gone", "cleanup/scratch-gone",
		"cleanup/network-gone", "cache-unpacked", "cache-commit",
	} {
		t.Run(strings.ReplaceAll(point, "/", "-"), func(t *testing.T) {
			h := newHost(t, "reap_interval = \"1s\"\norphan_timeout = \"1s\"", "AIRLOCK_FAILPOINT="+point+"=kill-once:"+home+`\crashed`)
			j := h.newJob(11)
			if j.begin() == 0 {
				j.stage("build_script", "@echo hello\r\n")
				j.call("cleanup")
			}
			require.FileExists(t, filepath.Join(h.native, "crashed"), "the point was not reached: %s", j.last)
			next := h.newJob(12)
			require.Zero(t, next.begin(), "%s\nthe service's log:\n%s", next.last, tail(h.log.String()))
			require.Zero(t, next.stage("build_script", "@echo hello\r\n"), next.last)
			require.Zero(t, next.call("cleanup"), next.last)
			h.sim.Forgive() // what the dead one had open
			requireNothing(t, h)
		})
	}
}

// requireNothing waits until no system, mount, scratch, endpoint is left, and no process that ended has left a handle.
func requireNothing(t *testing.T, h *host) {
	t.Helper()
	require.Eventually(t, func() bool { return len(h.sim.Leaks()) == 0 }, 30*time.Second, 100*time.Millisecond, "left behind: %s", lazy(func() string {
		return strings.Join(h.sim.Leaks(), "\n") + "\nthe service's log:\n" + tail(h.log.String())
	}))
}

func tail(text string) string {
	const most = 8000
	if len(text) > most {
		return "..." + text[len(text)-most:]
	}
	return text
}
