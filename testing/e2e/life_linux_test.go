package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/system"
)

func TestTheWholeLifeOfAJob(t *testing.T) {
	b := start(t, system.Options{StateDir: t.TempDir()})
	repo, err := b.gitlab.AddRepository(t.Context(), "group/project", map[string]string{"hello.txt": "from the repository\n"})
	require.NoError(t, err)
	protected, unprotected := true, false
	job := repo.Build(gitlabtest.Job{
		Protected: &protected,
		Script: []string{
			"cat hello.txt", "pwd", "id -u", "mkdir -p out kept", "echo artifact > out/a.txt",
			"cat kept/note 2>/dev/null || echo no cache", "echo remembered > kept/note", "echo to-stderr >&2",
		},
		AfterScript: []string{"echo after in $(pwd), job $CI_JOB_STATUS"},
		Artifacts:   []gitlabtest.Artifact{{Name: "art", Paths: []string{"out/"}}},
		Cache:       []gitlabtest.Cache{{Key: "k", Paths: []string{"kept/"}}},
	})
	first := b.run(job)
	require.True(t, first.Success, first.Log)
	for _, want := range []string{
		"process isolation (container sharing the host's kernel", `because isolation = "process"`, "/busybox, sha256:", "(pulled, ",
		"Limits: 512 MiB memory", "from the repository", "/builds/group/project", "no cache", "to-stderr",
		"after in /builds/group/project, job success", "ready in",
	} {
		require.Contains(t, first.Log, want)
	}
	require.Empty(t, first.CleanupStderr)
	require.Equal(t, []string{"out/", "out/a.txt"}, zipped(t, first.gitlab.Artifacts))

	second := b.run(job)
	require.True(t, second.Success, second.Log)
	require.Contains(t, second.Log, "(from cache)", "the image is pulled once")
	require.Contains(t, second.Log, "\nremembered\n", "the project's cache is kept")

	job.Protected = &unprotected
	third := b.run(job)
	require.True(t, third.Success, third.Log)
	require.Contains(t, third.Log, "no cache", "an unprotected job shares no cache with protected ones")
}

func zipped(t *testing.T, artifacts map[string][]byte) []string {
	t.Helper()
	require.Len(t, artifacts, 1)
	var names []string
	for _, content := range artifacts {
		files, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
		require.NoError(t, err)
		for _, f := range files.File {
			names = append(names, f.Name)
		}
	}
	return names
}

func TestHowJobsEnd(t *testing.T) { eachLevel(t, howJobsEnd) }

func howJobsEnd(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level, Config: "allowed_images = [\"127.0.0.1:*/**\", \"!**/*:forbidden\"]\n"})
	cases := map[string]struct {
		job    gitlabtest.Job
		reason string
		code   int
		log    string
	}{
		"a script's status":        {job: gitlabtest.Job{Script: []string{"exit 42"}}, reason: gitlabtest.ScriptFailure, code: 42},
		"no forged system failure": {job: gitlabtest.Job{Script: []string{"exit 2"}}, reason: gitlabtest.ScriptFailure, code: 2},
		"killed by itself":         {job: gitlabtest.Job{Script: []string{"kill -9 $$"}}, reason: gitlabtest.ScriptFailure, code: 137},
		"no such image":            {job: gitlabtest.Job{Image: b.registry + "/absent"}, reason: gitlabtest.ScriptFailure, log: "absent"},
		"an image not allowed":     {job: gitlabtest.Job{Image: "registry.example/evil"}, reason: gitlabtest.ScriptFailure, log: "not one of the allowed images"},
		"a tag not allowed":        {job: gitlabtest.Job{Image: b.registry + "/busybox:forbidden"}, reason: gitlabtest.ScriptFailure, log: "not one of the allowed images"},
		"a path of the host":       {job: gitlabtest.Job{Image: "docker-archive:" + helper}, reason: gitlabtest.ScriptFailure, log: "not one of the allowed images"},
		"an image that would fill the host": {
			job:    gitlabtest.Job{Image: b.push(sparseImage(t), "sparse")},
			reason: gitlabtest.ScriptFailure, log: "the image unpacks to more than 12.5 GiB (make the image smaller; the administrator can raise image_size_limit",
		},
		"out of memory": {
			job:    gitlabtest.Job{Script: []string{"dd if=/dev/zero of=/dev/null bs=700M count=1"}},
			reason: gitlabtest.ScriptFailure, log: "the memory limit of 512 MiB was reached",
		},
		"out of disk": {
			job:    gitlabtest.Job{Script: []string{"dd if=/dev/zero of=/big bs=1M count=3000"}},
			reason: gitlabtest.ScriptFailure, log: "No space left on device",
		},
		"a job that talks in its last moment": {job: gitlabtest.Job{Script: []string{"echo bye; exit 7"}}, reason: gitlabtest.ScriptFailure, code: 7, log: "bye"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			result := b.run(c.job)
			require.Equal(t, c.reason, result.Reason, result.Log)
			require.Contains(t, result.Log, c.log)
			if c.code != 0 {
				require.Equal(t, c.code, result.ExitCode)
			}
			prepares := 0
			for _, call := range result.Calls {
				if call.Name == "prepare" {
					prepares++
				}
			}
			require.Equal(t, 1, prepares, "what a retry cannot help is not retried")
		})
	}
}

func TestTheStrongerLevelIsNeverReplaced(t *testing.T) {
	b := start(t, system.Options{Isolation: "hypervisor", Tables: "[hypervisor]\nqemu = \"no-such-qemu\"\n"})
	result := b.run(gitlabtest.Job{Script: []string{"echo must not run"}})
	require.Equal(t, gitlabtest.SystemFailure, result.Reason)
	require.Contains(t, result.Log, "no runtime for hypervisor isolation")
	require.Contains(t, result.Log, "no-such-qemu", "and why")
	require.NotContains(t, result.Log, "must not run")
}

func TestAnImagesUserAndShell(t *testing.T) { eachLevel(t, anImagesUserAndShell) }

func anImagesUserAndShell(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	repo, err := b.gitlab.AddRepository(t.Context(), "group/project", map[string]string{"file": "x"})
	require.NoError(t, err)
	busybox := archived(t, must(images.Busybox(context.Background())))
	bash := archived(t, must(images.Bash(context.Background())))

	result := b.run(repo.Build(gitlabtest.Job{
		Image:     b.push(asUser(t, busybox, "1234:4321"), "user"),
		Script:    []string{"echo I am $(id -u):$(id -g)", "touch new file", "stat -c '%u:%g %n' file new"},
		Artifacts: []gitlabtest.Artifact{{Name: "a", Paths: []string{"new"}}},
	}))
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "I am 1234:4321")
	require.Contains(t, result.Log, "1234:4321 file\n1234:4321 new")

	result = b.run(gitlabtest.Job{Image: b.push(bash, "bash"), Script: []string{"echo bash is ${BASH_VERSION:-absent}", "[[ -t 0 ]] || echo no terminal"}})
	require.True(t, result.Success, result.Log)
	require.NotContains(t, result.Log, "bash is absent")

	result = b.run(gitlabtest.Job{Image: b.push(scratchImage(t), "empty"), Script: []string{"true"}})
	require.Equal(t, gitlabtest.ScriptFailure, result.Reason, result.Log)
	require.Contains(t, result.Log, "shell")
}

func TestCancelLeavesTheSandboxForWhatFollows(t *testing.T) {
	eachLevel(t, cancelLeavesTheSandboxForWhatFollows)
}

func cancelLeavesTheSandboxForWhatFollows(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{
		Script:      []string{"touch /tmp/marker", "(setsid sleep 1000 &)", "echo started", "sleep 1000"},
		AfterScript: []string{"ls /tmp/marker", "echo sleepers: $(cat /proc/[0-9]*/comm | grep -c sleep)"},
	}))
	require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 10*time.Millisecond, "%s", execution.Log())
	execution.Cancel()
	result := execution.Wait()
	require.Equal(t, gitlabtest.JobCanceled, result.Reason, result.Log)
	require.Contains(t, result.Log, "\n/tmp/marker", "after_script runs in the same sandbox")
	require.Contains(t, result.Log, "sleepers: 0", "the whole tree of the script is gone, its daemons too")
}

func TestAForcedCancelAndACleanupBesideAStage(t *testing.T) {
	eachLevel(t, aForcedCancelAndACleanupBesideAStage)
}

func aForcedCancelAndACleanupBesideAStage(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	b.caller.FinishTimeout = 100 * time.Millisecond // cleanup does not wait for the stage
	b.caller.ForceKill = 100 * time.Millisecond
	execution := b.caller.Start(t.Context(), b.job(gitlabtest.Job{Script: []string{"trap '' TERM", "echo started", "while :; do sleep 1; done"}}))
	require.Eventually(t, func() bool { return strings.Contains(execution.Log(), "\nstarted") }, time.Minute, 10*time.Millisecond, "%s", execution.Log())
	execution.Abort()
	require.Equal(t, gitlabtest.JobCanceled, execution.Wait().Reason)
	require.NotContains(t, b.airlock("ps"), "al-", "nothing lives")
}

func TestAThousandMegabytesOfOutput(t *testing.T) { muchOutput(t, "process", 1<<30) }

func TestTwoHundredMegabytesOfOutputOfAVirtualMachine(t *testing.T) {
	muchOutput(t, "hypervisor", 200<<20)
}

func muchOutput(t *testing.T, level string, size int) {
	b := start(t, system.Options{Isolation: level})
	var out, stderr counter // of a byte that Airlock itself never writes
	b.caller.Stdout, b.caller.Stderr = &out, &stderr
	peak := b.watchMemory()
	result := b.run(gitlabtest.Job{Script: []string{
		fmt.Sprintf("head -c %d /dev/zero", size), "printf '\\000' >&2",
	}})
	require.True(t, result.Success, result.Log)
	require.EqualValues(t, size, out.n, "byte-exact")
	require.EqualValues(t, 1, stderr.n)
	for name, kib := range peak() {
		t.Logf("%s took %d MiB at most", name, kib>>10)
		require.Less(t, kib, int64(160<<10), "%s held back what it could not pass on", name)
	}
}

func TestManyJobsAtOnceDoNotMeet(t *testing.T) { eachLevel(t, manyJobsAtOnceDoNotMeet) }

func manyJobsAtOnceDoNotMeet(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			result := b.run(gitlabtest.Job{Script: []string{
				fmt.Sprintf("echo job-%d > /builds/mine", i), "hostname; sleep 0.5", "cat /builds/mine", "ls /builds | wc -l",
			}})
			if !result.Success || !strings.Contains(result.Log, fmt.Sprintf("\njob-%d", i)) {
				t.Errorf("job %d: %s", i, result.Log)
			}
		})
	}
	wg.Wait()
}
