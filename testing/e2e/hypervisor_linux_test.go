package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/guestkernel"
	"github.com/airlock-ci/airlock/testing/system"
)

func hostKernel(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	return unix.ByteSliceToString(name.Release[:])
}

func TestAJobInAVirtualMachine(t *testing.T) {
	b := start(t, system.Options{Isolation: "hypervisor"})
	repo, err := b.gitlab.AddRepository(t.Context(), "group/project", map[string]string{"hello.txt": "from the repository\n"})
	require.NoError(t, err)
	protected := true
	job := repo.Build(gitlabtest.Job{
		Protected: &protected,
		Script: []string{
			"echo kernel $(uname -r)", "cat hello.txt", "mkdir -p out kept", "echo artifact > out/a.txt",
			"cat kept/note 2>/dev/null || echo no cache", "echo remembered > kept/note", "echo to-stderr >&2",
		},
		AfterScript: []string{"echo after in $(pwd), job $CI_JOB_STATUS"},
		Artifacts:   []gitlabtest.Artifact{{Name: "art", Paths: []string{"out/"}}},
		Cache:       []gitlabtest.Cache{{Key: "k", Paths: []string{"kept/"}}},
	})
	for range 2 { // nothing of the first is there for the second
		result := b.run(job)
		require.True(t, result.Success, result.Log)
		for _, want := range []string{
			"hypervisor isolation (own kernel, qemu-", `because isolation = "hypervisor"`, "Limits: 512 MiB memory, 1 CPUs",
			"from the repository", "no cache", "to-stderr", "after in /builds/group/project, job success", "ready in",
		} {
			require.Contains(t, result.Log, want)
		}
		kernel := regexp.MustCompile(`\nkernel (\S+)`).FindStringSubmatch(result.Log)
		require.NotNil(t, kernel, result.Log)
		require.NotEqual(t, hostKernel(t), kernel[1])
		require.Empty(t, result.CleanupStderr)
		require.Equal(t, []string{"out/", "out/a.txt"}, zipped(t, result.gitlab.Artifacts))
	}

	failed := b.run(gitlabtest.Job{Script: []string{"exit 42"}})
	require.Equal(t, gitlabtest.ScriptFailure, failed.Reason, failed.Log)
	require.Equal(t, 42, failed.ExitCode)
}

func TestAnAdministratorsCommandInAVirtualMachine(t *testing.T) {
	b := start(t, system.Options{Isolation: "hypervisor"})
	out := b.airlock("run", "--isolation", "hypervisor", "--image", b.registry+"/busybox", "--", "uname", "-r")
	require.NotContains(t, out, hostKernel(t))
	require.Regexp(t, `(?m)^\d+\.\d+\.\d+`, out)

	execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{Script: []string{"echo started", "sleep 1000"}}))
	defer func() { execution.Abort(); execution.Wait() }()
	require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 50*time.Millisecond, "%s", execution.Log())
	require.Regexp(t, `al-[0-9a-f]{12} +hypervisor +qemu-(tcg|kvm) +1 vCPU +[0-9.]+ MiB `, b.airlock("ps"))
	m := b.ps()[0].Machine
	require.NotNil(t, m)
	require.EqualValues(t, 1, m.VCPUs)
	require.EqualValues(t, 512<<20, m.MemoryBytes)
	require.Contains(t, []string{"tcg", "kvm"}, m.Accelerator)
	job := b.ps()[0].ID
	require.Equal(t, m.Kernel+"\n", b.airlock("shell", job, "--", "uname", "-r"))
	require.Contains(t, b.airlock("inspect", job), "1 vCPUs and 512 MiB by "+m.Accelerator+", kernel "+m.Kernel)
}

// TestAKilledExecutorLeavesNoVirtualMachine relies on the leak check: the machine's process, its tap and its disks.
func TestAKilledExecutorLeavesNoVirtualMachine(t *testing.T) {
	b := start(t, system.Options{Isolation: "hypervisor"})
	execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{Script: []string{"echo started", "sleep 1000"}}))
	require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 50*time.Millisecond, "%s", execution.Log())
	pid, err := b.ExecutorPID()
	require.NoError(t, err)
	process, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, process.Kill())
	require.Equal(t, gitlabtest.SystemFailure, execution.Wait().Reason)
	require.Eventually(t, func() bool {
		out, err := b.Airlock("ps").CombinedOutput()
		return err == nil && !strings.Contains(string(out), "al-")
	}, time.Minute, 100*time.Millisecond)
}

// TestHowMachinesEnd ends machines under their jobs: the job log says why, and GitLab hears whose fault it was.
func TestHowMachinesEnd(t *testing.T) {
	b := start(t, system.Options{Isolation: "hypervisor"})
	for name, c := range map[string]struct {
		signal unix.Signal
		log    string
		limit  time.Duration
	}{
		"killed":  {unix.SIGKILL, "the sandbox is gone: QEMU was ended by signal 9", 10 * time.Second},
		"stopped": {unix.SIGSTOP, "the sandbox is gone: the guest did not answer for", 35 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{Script: []string{"echo started", "sleep 1000"}}))
			require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 50*time.Millisecond, "%s", execution.Log())
			began := time.Now()
			require.NoError(t, unix.Kill(b.machine(t), c.signal))
			result := execution.Wait()
			require.Equal(t, gitlabtest.SystemFailure, result.Reason, result.Log)
			require.Contains(t, result.Log, c.log)
			require.Less(t, time.Since(began), c.limit)
			b.in(t).nothingLives()
		})
	}
}

// machine is the process id of the QEMU of the only sandbox. A template may be in the making beside it.
func (b *bench) machine(t *testing.T) int {
	t.Helper()
	executor, err := b.ExecutorPID()
	require.NoError(t, err)
	id := b.in(t).ps()[0].ID
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", executor))
	require.NoError(t, err)
	var machines []int
	for _, task := range tasks {
		children, _ := os.ReadFile(task) // of a thread that may have ended
		for _, child := range strings.Fields(string(children)) {
			groups, _ := os.ReadFile("/proc/" + child + "/cgroup")
			if pid, err := strconv.Atoi(child); err == nil && strings.Contains(string(groups), id) {
				machines = append(machines, pid)
			}
		}
	}
	require.Len(t, machines, 1)
	return machines[0]
}

// TestAFullDiskOfTheHost ends the job whose scratch cannot grow, as the host's fault.
func TestAFullDiskOfTheHost(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("small", dir, "tmpfs", 0, "size=500m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	b := start(t, system.Options{Isolation: "hypervisor", StateDir: dir})
	result := b.run(gitlabtest.Job{Script: []string{"echo started", "head -c 1000000000 /dev/urandom > /big"}})
	require.Equal(t, gitlabtest.SystemFailure, result.Reason, result.Log)
	require.Contains(t, result.Log, "\nstarted")
	require.Contains(t, result.Log, "the host's disk is full")
}

// TestTheDoctorBootsAMachine: before the service ever ran, the doctor finds out what this host can do, and what it found is
// what the service then knows. Without permission to emulate, a host without KVM is told so.
func TestTheDoctorBootsAMachine(t *testing.T) {
	keepLedger(t).Add("airlock-doctor")
	kernel, err := guestkernel.Dir()
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	accelerator := func(emulation bool) (status, detail string) {
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil,
			"isolation = \"hypervisor\"\ngroup = \"root\"\nstate_dir = %q\nrun_dir = %q\ncgroup_parent = \"airlock-doctor\"\n[hypervisor]\nkernel_dir = %q\nallow_emulation = %t\n",
			filepath.Join(dir, "state"), filepath.Join(dir, "run"), kernel, emulation), 0o600))
		out, _ := exec.Command(filepath.Join(built, "airlock"), "doctor", "--config", path, "--json").Output() // 1 if anything fails
		var report struct {
			Findings []struct{ Check, Status, Detail string }
		}
		require.NoError(t, json.Unmarshal(out, &report), "%s", out)
		for _, f := range report.Findings {
			if f.Check == "accelerator" {
				return f.Status, f.Detail
			}
		}
		require.Fail(t, "no finding about the accelerator", "%s", out)
		return "", ""
	}
	status, detail := accelerator(true)
	if status == "ok" {
		require.Contains(t, detail, "KVM: a machine booted")
		return
	}
	require.Equal(t, "warn", status, detail)
	require.Contains(t, detail, "emulation, several times slower: KVM did not work when it was tried at")
	began := time.Now()
	status, detail = accelerator(false)
	require.Equal(t, "fail", status)
	require.Contains(t, detail, "and emulation is not allowed")
	require.Less(t, time.Since(began), 8*time.Second, "it is remembered")
}
