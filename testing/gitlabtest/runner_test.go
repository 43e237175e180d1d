//go:build unix

package gitlabtest

import (
	"archive/zip"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A real runner, a real repository and the smallest driver.
func TestRealRunnerRunsJobs(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Minute, context.DeadlineExceeded)
	defer cancel()
	coordinator, err := StartCoordinator("")
	require.NoError(t, err)
	defer func() { require.NoError(t, coordinator.Close()) }()
	repository, err := coordinator.AddRepository(ctx, "group/project", map[string]string{"dir/hello.txt": "hello from git\n"})
	require.NoError(t, err)

	runner, err := StartRunner(ctx, RunnerOptions{
		Coordinator: coordinator, Driver: writeDriver(t, shellDriver(t)), Concurrent: 2, Env: []string{pathWithRunner(t, ctx)},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, runner.Stop()) }()

	good := coordinator.Add(repository.Build(Job{Script: []string{
		"cat dir/hello.txt", `echo "handle $HANDLE"`, `test "$(git rev-parse HEAD)" = "$CI_COMMIT_SHA"`,
	}, AfterScript: []string{"echo after"}}))
	uploading := coordinator.Add(Job{
		Script: []string{"mkdir out; echo content > out/file"}, Artifacts: []Artifact{{Name: "art", Paths: []string{"out/"}}},
	})
	bad := coordinator.Add(Job{Script: []string{"exit 42"}})

	record, err := coordinator.Wait(ctx, good)
	require.NoError(t, err, "%s\n%s", record.Trace, runner.Log())
	require.Equal(t, "success", record.State, record.Trace)
	require.Contains(t, record.Trace, "hello from git")
	require.Contains(t, record.Trace, "preparing h1", "job_env reaches the driver")
	require.Contains(t, record.Trace, "handle h1")
	require.Contains(t, record.Trace, "after\n")

	record, err = coordinator.Wait(ctx, uploading)
	require.NoError(t, err, "%s\n%s", record.Trace, runner.Log())
	require.Equal(t, "success", record.State, record.Trace)
	require.Contains(t, record.Artifacts, "art.zip", record.Trace)
	require.Equal(t, "content\n", unzip(t, record.Artifacts["art.zip"])["out/file"])

	record, err = coordinator.Wait(ctx, bad)
	require.NoError(t, err, "%s\n%s", record.Trace, runner.Log())
	require.Equal(t, "failed", record.State)
	require.Equal(t, "script_failure", record.FailureReason)
	require.NotNil(t, record.ExitCode)
	require.Equal(t, 42, *record.ExitCode)
}

// The Caller's scripts do the runner's own work too: sources, cache, artifacts there and back.
func TestCallerWithARepositoryCacheAndArtifacts(t *testing.T) {
	ctx := context.Background()
	coordinator, err := StartCoordinator("")
	require.NoError(t, err)
	defer func() { require.NoError(t, coordinator.Close()) }()
	repository, err := coordinator.AddRepository(ctx, "group/project", map[string]string{"hello.txt": "hello from git\n"})
	require.NoError(t, err)
	caller := &Caller{
		Driver: writeDriver(t, shellDriver(t)),
		Env:    append(os.Environ(), pathWithRunner(t, ctx), "GIT_CONFIG_GLOBAL=/dev/null"),
	}
	cache := []Cache{{Key: "deps", Paths: []string{"deps/"}}}
	first := coordinator.Adopt(repository.Build(Job{
		Script:    []string{"cat hello.txt", "test ! -e deps", "mkdir deps out; echo cached > deps/d; echo built > out/o"},
		Artifacts: []Artifact{{Name: "art", Paths: []string{"out/"}}}, Cache: cache,
	}))
	result := caller.Run(ctx, first)
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "hello from git")
	require.Equal(t, "built\n", unzip(t, coordinator.Job(first.ID).Artifacts["art.zip"])["out/o"])

	second := coordinator.Adopt(repository.Build(Job{
		Script: []string{"cat deps/d out/o"}, Cache: cache, Variables: []Variable{{Key: "GIT_STRATEGY", Value: "clone"}},
		Dependencies: []Dependency{{ID: first.ID, Token: first.Token, Name: "build", Filename: "art.zip"}},
	}))
	result = caller.Run(ctx, second)
	require.True(t, result.Success, result.Log)
	require.Contains(t, result.Log, "cached\nbuilt\n")
	require.Equal(t, []string{
		"prepare_script", "get_sources", "restore_cache", "download_artifacts", "build_script", "archive_cache", "cleanup_file_variables",
	}, result.Stages())
}

func TestCancelThroughTheCoordinator(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, context.DeadlineExceeded)
	defer cancel()
	coordinator, err := StartCoordinator("")
	require.NoError(t, err)
	defer func() { require.NoError(t, coordinator.Close()) }()
	cleaned := filepath.Join(t.TempDir(), "cleaned")
	driver := writeDriver(t, scripted)
	runner, err := StartRunner(ctx, RunnerOptions{Coordinator: coordinator, Driver: driver, Env: []string{
		"WORK=" + t.TempDir(), `RUN=[ $stage != build_script ] || { echo started; exec bash -c "while echo tick; do sleep 0.2; done"; }`, "CLEANUP=touch " + cleaned,
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, runner.Stop()) }()
	id := coordinator.Add(Job{Script: []string{"true"}})
	require.Eventually(t, func() bool { return strings.Contains(coordinator.Job(id).Trace, "started") }, 30*time.Second, 10*time.Millisecond)
	coordinator.Cancel(id)
	require.Eventually(t, func() bool { _, err := os.Stat(cleaned); return err == nil }, 30*time.Second, 10*time.Millisecond, "the signal reaches the driver")
}

// pathWithRunner is a PATH in which gitlab-runner is found.
func pathWithRunner(t *testing.T, ctx context.Context) string {
	t.Helper()
	runner, err := BuildRunner(ctx)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(runner, filepath.Join(dir, "gitlab-runner")))
	return "PATH=" + dir + ":" + os.Getenv("PATH")
}

func unzip(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	reader, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	require.NoError(t, err)
	files := map[string]string{}
	for _, file := range reader.File {
		content, err := file.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(content)
		require.NoError(t, err)
		files[file.Name] = string(data)
	}
	return files
}

func TestALogIsShownWithoutStamps(t *testing.T) {
	require.Equal(t, "first\nto stderr, in two parts\n\nlast", withoutStamps(
		"2026-11-30T12:00:00.000000Z 00O first\n2026-11-30T12:00:01.123456Z 0aE to stderr, \n2026-11-30T12:00:01.123457Z 0aE+in two parts\n"+
			"2026-11-30T12:00:02.000000Z 00O \n2026-11-30T12:00:02.000000Z 00O last"))
	require.Equal(t, "no stamps\n2026-11-30 is a day\n", withoutStamps("no stamps\n2026-11-30 is a day\n"))
}
