package gitlab_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

func TestReadEnvironment(t *testing.T) {
	read := func(env map[string]string) gitlab.Environment {
		return gitlab.ReadEnvironment(func(key string) string { return env[key] })
	}
	require.Equal(t, gitlab.Environment{
		JobResponseFile: "/t/response.json", ExitCodeFile: "/t/build_exit_code", BuildFailure: 11, SystemFailure: 22, Handle: "h",
	}, read(map[string]string{
		"JOB_RESPONSE_FILE": "/t/response.json", "BUILD_EXIT_CODE_FILE": "/t/build_exit_code",
		"BUILD_FAILURE_EXIT_CODE": "11", "SYSTEM_FAILURE_EXIT_CODE": "22", "AIRLOCK_JOB_HANDLE": "h",
		"CUSTOM_ENV_AIRLOCK_JOB_HANDLE": "forged", "CUSTOM_ENV_BUILD_FAILURE_EXIT_CODE": "0",
	}))
	for _, nonsense := range []string{"", "0", "-1", "256", "one"} {
		env := read(map[string]string{"BUILD_FAILURE_EXIT_CODE": nonsense, "SYSTEM_FAILURE_EXIT_CODE": nonsense})
		require.Equal(t, 1, env.BuildFailure, nonsense)
		require.Equal(t, 2, env.SystemFailure, nonsense)
	}
	err := read(nil).CheckJobResponseFile()
	require.ErrorContains(t, err, "needs GitLab Runner 14.1 or newer")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

// The keys are those that GitLab Runner decodes; it ignores all others.
func TestConfigReplyIsWhatTheRunnerReads(t *testing.T) {
	text, err := json.Marshal(gitlab.ConfigReply(gitlab.Settings{
		Version: "1.2", BuildsDir: "/builds", CacheDir: "/cache", Shell: "bash", Handle: "12-abc",
	}))
	require.NoError(t, err)
	require.JSONEq(t, `{
		"driver": {"name": "airlock", "version": "1.2"},
		"builds_dir": "/builds", "cache_dir": "/cache", "builds_dir_is_shared": false,
		"job_env": {"AIRLOCK_JOB_HANDLE": "12-abc"},
		"shell": "bash"
	}`, string(text))
}

func TestHandle(t *testing.T) {
	handle := gitlab.NewHandle(9007199254740993)
	parsed, err := gitlab.ParseHandle(string(handle))
	require.NoError(t, err)
	require.EqualValues(t, 9007199254740993, parsed.JobID())
	require.NotEqual(t, handle, gitlab.NewHandle(9007199254740993))
	for _, bad := range []string{"", "1", "1-", "1-xyz", "../1-" + strings.Repeat("0", 32), "1-" + strings.Repeat("0", 33), "1-" + strings.Repeat("A", 32), string(handle) + "\n"} {
		_, err := gitlab.ParseHandle(bad)
		require.Error(t, err, bad)
	}
}

// The author's stages are exactly those that run what the author wrote.
func TestStagesOfTheRecordedRunner(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(recorded), "*-run-*.script"))
	require.NoError(t, err)
	require.Len(t, files, 8)
	name := regexp.MustCompile(`^\d+-run-(.*)\.script$`)
	for _, file := range files {
		stage := name.FindStringSubmatch(filepath.Base(file))[1]
		script, err := os.ReadFile(file)
		require.NoError(t, err)
		authors := strings.Contains(string(script), `\necho hello\n`) || strings.Contains(string(script), `\necho after\n`)
		require.Equal(t, !authors, gitlab.IsRunnersStage(stage), stage)
	}
}

func TestUnknownStagesAreTheAuthors(t *testing.T) {
	for _, stage := range []string{"build_script", "step_script", "step_release", "after_script", "boot_verify_probes", "", "GET_SOURCES", "get_sources ", "new_in_20"} {
		require.False(t, gitlab.IsRunnersStage(stage), stage)
	}
	for _, stage := range []string{
		"prepare_script", "get_sources", "clear_worktree", "restore_cache", "download_artifacts", "archive_cache",
		"archive_cache_on_failure", "upload_artifacts_on_success", "upload_artifacts_on_failure", "cleanup_file_variables",
	} {
		require.True(t, gitlab.IsRunnersStage(stage), stage)
	}
}
