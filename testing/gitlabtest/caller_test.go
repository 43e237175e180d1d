//go:build unix

package gitlabtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scripted is a driver whose calls do what the environment variables CONFIG, PREPARE, RUN and CLEANUP say.
const scripted = `#!/bin/bash
default_config='echo "{\"builds_dir\":\"$WORK/builds\",\"cache_dir\":\"$WORK/cache\"}"'
case $1 in
config) eval "${CONFIG:-$default_config}";;
prepare) eval "$PREPARE";;
run) stage=$3; script=$2; eval "$RUN";;
cleanup) eval "$CLEANUP";;
esac
`

func scriptedCaller(t *testing.T, env ...string) *Caller {
	return &Caller{
		Driver: writeDriver(t, scripted), Env: append(os.Environ(), append(env, "WORK="+t.TempDir())...),
		TempDir: t.TempDir(), RetryInterval: time.Millisecond,
	}
}

func TestResults(t *testing.T) {
	job := Job{ID: 5, Script: []string{"true"}, AfterScript: []string{"true"}, Artifacts: []Artifact{{Paths: []string{"x"}, When: "always"}}}
	whole := []string{"prepare_script", "get_sources", "build_script", "after_script", "upload_artifacts_on_success", "cleanup_file_variables"}
	failed := []string{"prepare_script", "get_sources", "build_script", "after_script", "upload_artifacts_on_failure", "cleanup_file_variables"}
	unsourced := []string{"prepare_script", "get_sources", "upload_artifacts_on_failure", "cleanup_file_variables"}
	in := func(stage, what string) string { return "RUN=if [ $stage = " + stage + " ]; then " + what + "; fi" }
	for name, c := range map[string]struct {
		env      string
		reason   string
		exitCode int
		stages   []string
		calls    int
	}{
		"success":                           {"RUN=true", "", 0, whole, 9},
		"script fails with a status":        {in("build_script", "echo 7 > $BUILD_EXIT_CODE_FILE; exit 1"), ScriptFailure, 7, failed, 9},
		"script fails without a status":     {in("build_script", "exit 1"), ScriptFailure, 1, failed, 9},
		"status is not a number":            {in("build_script", "echo x > $BUILD_EXIT_CODE_FILE; exit 1"), SystemFailure, 0, failed, 9},
		"system failure":                    {in("build_script", "exit 2"), SystemFailure, 0, failed, 9},
		"unknown exit code":                 {in("build_script", "exit 3"), SystemFailure, 0, failed, 9},
		"death by a signal":                 {in("build_script", "kill -9 $$"), SystemFailure, 0, failed, 9},
		"after_script does not count":       {in("after_script", "exit 1"), "", 0, whole, 9},
		"upload counts":                     {in("upload_artifacts_on_success", "exit 1"), ScriptFailure, 1, whole, 9},
		"cleanup of files does not count":   {in("cleanup_file_variables", "exit 1"), "", 0, whole, 9},
		"get_sources fails":                 {in("get_sources", "exit 1"), ScriptFailure, 1, unsourced, 7},
		"prepare_script fails":              {in("prepare_script", "exit 1"), ScriptFailure, 1, whole[:1], 4},
		"prepare refuses":                   {"PREPARE=exit 1", ScriptFailure, 1, nil, 3},
		"prepare fails for good":            {"PREPARE=exit 2", SystemFailure, 0, nil, 9},
		"prepare fails once":                {"PREPARE=[ -e $WORK/again ] || { touch $WORK/again; exit 2; }", "", 0, whole, 12},
		"config refuses":                    {"CONFIG=exit 1", ScriptFailure, 1, nil, 2},
		"config fails":                      {"CONFIG=exit 2", SystemFailure, 0, nil, 6},
		"config replies nonsense":           {"CONFIG=echo nonsense", SystemFailure, 0, nil, 6},
		"cleanup does not count":            {"CLEANUP=exit 1", "", 0, whole, 9},
		"a background process is waited on": {in("build_script", "(sleep 0.2; echo late) & true"), "", 0, whole, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caller := scriptedCaller(t, c.env)
			result := caller.Run(context.Background(), job)
			require.Equal(t, c.reason, result.Reason, result.Log)
			require.Equal(t, c.reason == "", result.Success)
			require.Equal(t, c.exitCode, result.ExitCode)
			require.Equal(t, c.stages, result.Stages())
			require.Len(t, result.Calls, c.calls)
			require.Equal(t, "cleanup", result.Calls[len(result.Calls)-1].Name)
			if strings.Contains(c.env, "echo late") {
				require.Contains(t, result.Log, "late\n")
			}
			left, err := os.ReadDir(caller.TempDir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestEachAttemptHasItsOwnDirectory(t *testing.T) {
	caller := scriptedCaller(t, "PREPARE=exit 2")
	dirs := map[string]int{}
	caller.Before = func(c *Call) {
		dirs[c.Dir]++
		info, err := os.Stat(c.Dir)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}
	caller.Run(context.Background(), Job{ID: 1, Script: []string{"true"}})
	require.Len(t, dirs, 3)
}

// sleeping runs build_script as a process that notes each SIGTERM and then ends.
const sleeping = `RUN=if [ $stage = build_script ]; then trap "echo terminated; exit 1" TERM; echo started; sleep 60 & wait; fi`

func TestCancel(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*Execution, context.CancelFunc)
		reason string
		stages []string
	}{
		"graceful": {func(e *Execution, _ context.CancelFunc) { e.Cancel() }, JobCanceled,
			[]string{"prepare_script", "get_sources", "build_script", "after_script", "cleanup_file_variables"}},
		"forced": {func(e *Execution, _ context.CancelFunc) { e.Abort() }, JobCanceled,
			[]string{"prepare_script", "get_sources", "build_script"}},
		"shutdown": {func(_ *Execution, shutdown context.CancelFunc) { shutdown() }, JobCanceled,
			[]string{"prepare_script", "get_sources", "build_script"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			e := scriptedCaller(t, sleeping).Start(ctx, Job{ID: 1, Script: []string{"true"}, AfterScript: []string{"true"}})
			require.Eventually(t, func() bool { return strings.Contains(e.Log(), "started") }, 10*time.Second, time.Millisecond)
			c.end(e, cancel)
			result := e.Wait()
			require.Equal(t, c.reason, result.Reason)
			require.Equal(t, c.stages, result.Stages())
			require.Contains(t, result.Log, "terminated")
		})
	}
}

func TestTimeoutEndsAStubbornDriver(t *testing.T) {
	caller := scriptedCaller(t, `RUN=if [ $stage = build_script ]; then trap "" TERM; sleep 60; fi`)
	caller.GracefulKill = 50 * time.Millisecond
	result := caller.Run(context.Background(), Job{ID: 1, Script: []string{"true"}, Timeout: 300 * time.Millisecond})
	require.Equal(t, JobTimeout, result.Reason)
	last := result.Calls[len(result.Calls)-2]
	require.Equal(t, "run build_script", last.String())
	require.Equal(t, -1, last.ExitCode)
}

func TestCleanupBesideALivingRun(t *testing.T) {
	caller := scriptedCaller(t, `RUN=if [ $stage = build_script ]; then trap "" TERM; while [ -d $WORK ] && [ ! -e $WORK/clean ]; do sleep 0.01; done; fi`, "CLEANUP=touch $WORK/clean")
	caller.FinishTimeout = 50 * time.Millisecond
	result := caller.Run(context.Background(), Job{ID: 1, Script: []string{"true"}, Timeout: 300 * time.Millisecond})
	require.Equal(t, JobTimeout, result.Reason)
	require.Contains(t, result.Log, "Timed out waiting for the build to finish")
	require.Contains(t, []string{"cleanup", "run build_script"}, result.Calls[len(result.Calls)-1].String())
}

func TestHooksSeeTheProcess(t *testing.T) {
	caller := scriptedCaller(t, "RUN=sleep 0.1")
	var pids int
	caller.Started = func(c *Call) {
		require.NoError(t, syscall.Kill(c.PID, 0))
		pids++
	}
	var script []byte
	caller.Before = func(c *Call) {
		if c.Stage == "build_script" {
			var err error
			script, err = os.ReadFile(c.Argv[len(c.Argv)-2])
			require.NoError(t, err)
			require.Equal(t, "script", filepath.Base(c.Argv[len(c.Argv)-2]))
		}
	}
	result := caller.Run(context.Background(), Job{ID: 1, Script: []string{"some command"}})
	require.True(t, result.Success, result.Log)
	require.Equal(t, len(result.Calls), pids)
	require.Contains(t, string(script), "some command")
}

func TestAuthorsVariablesComeLast(t *testing.T) {
	caller := scriptedCaller(t, `RUN=[ $stage != build_script ] || echo "id $CUSTOM_ENV_CI_JOB_ID tmp $TMPDIR"`)
	caller.Run(context.Background(), Job{ID: 1, Script: []string{"true"}})
	result := caller.Run(context.Background(), Job{ID: 1, Script: []string{"true"}, Variables: []Variable{
		{Key: "CI_JOB_ID", Value: "666"}, {Key: "TMPDIR", Value: "/forged"},
	}})
	require.Contains(t, result.Log, "id 666 tmp "+caller.TempDir)
}
