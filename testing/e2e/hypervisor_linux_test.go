package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
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

// TestAKilledExecutorLeavesNoVirtualMachine relies on the ledger: the machine's process, its tap and its disks.
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
