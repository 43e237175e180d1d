//go:build unix

package gitlabtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// dumpDriver is the driver that made the recording: it writes down what it was called with.
const dumpDriver = `#!/bin/bash
n=$(printf %02d "$(ls "$DUMP_DIR" | grep -c argv)")
name=$1; [ "$1" = run ] && name=run-$3 && cp "$2" "$DUMP_DIR/$n-$name.script"
printf '[%s]\n' "$0" "$@" > "$DUMP_DIR/$n-$name.argv"
pwd > "$DUMP_DIR/$n-$name.cwd"
find . -printf '%M %y %P\n' | sort > "$DUMP_DIR/$n-$name.files"
ps -o pgid= -p $$ | tr -d ' ' > "$DUMP_DIR/$n-$name.pgid"; echo $$ >> "$DUMP_DIR/$n-$name.pgid"
readlink /proc/self/fd/0 > "$DUMP_DIR/$n-$name.stdin"
umask > "$DUMP_DIR/$n-$name.umask"
env -u DUMP_DIR -u OLDPWD > "$DUMP_DIR/$n-$name.env"
case $1 in config) cat <<'EOF'
{"driver":{"name":"dump","version":"1"},"hostname":"dumphost","builds_dir":"/srv/runner/builds-dump",
 "cache_dir":"/srv/runner/cache-dump","job_env":{"FROM_CONFIG_JOB_ENV":"yes"}}
EOF
esac
`

// recordedJob is the job that the recorded runner ran.
func recordedJob() Job {
	protected := true
	service := func(name string) Service {
		return Service{Name: name, Alias: "svc", Variables: []Variable{{Key: "SVC_VAR", Value: "x"}}}
	}
	return Job{
		ID: 1000, Protected: &protected, Image: "alpine:3.20",
		RepositoryURL: "http://127.0.0.1:8929/group/project.git",
		Services:      []Service{service("postgres:16"), service("redis:7")},
		Script:        []string{"echo hello", "mkdir -p out cachedir; echo x > out/a; echo y > cachedir/b"},
		AfterScript:   []string{"echo after"},
		PreGetSources: []string{"true # pre_get_sources hook"}, PostGetSources: []string{"true # post_get_sources hook"},
		Variables: []Variable{
			{Key: "GIT_STRATEGY", Value: "clone", Public: true},
			{Key: "GIT_DEPTH", Value: "20", Public: true},
			{Key: "SECRET_MASKED", Value: "s3cr3t-masked-value", Masked: true},
			{Key: "KUBECONFIG_FILE", Value: "apiVersion: v1\nkind: Config\n", File: true},
			{Key: "RAW_VAR", Value: "no $EXPANSION here", Public: true, Raw: true},
			{Key: "EXPANDED_VAR", Value: "sha is $CI_COMMIT_SHORT_SHA", Public: true},
			{Key: "MY_ID_TOKEN", Value: "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3ZhdWx0In0.c2ln", Masked: true, Raw: true},
		},
		Artifacts:   []Artifact{{Name: "art", Paths: []string{"out/"}, When: "always"}},
		Cache:       []Cache{{Key: "k", Paths: []string{"cachedir/"}}},
		Credentials: []Credentials{{Type: "registry", URL: "registry.example.com", Username: "gitlab-ci-token", Password: "glcbt-64_job00001000"}},
	}
}

const recording = "testdata/recorded-19.4"

func TestCallerCallsAsTheRecordedRunner(t *testing.T) {
	dump := t.TempDir()
	caller := &Caller{
		Driver:            writeDriver(t, dumpDriver),
		Env:               []string{"HOME=/opt/bench/home", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DUMP_DIR=" + dump},
		RunnerEnvironment: []Variable{{Key: "FROM_RUNNER_ENV", Value: "1", Public: true}},
		TempDir:           t.TempDir(),
	}
	result := caller.Run(context.Background(), recordedJob())
	require.True(t, result.Success, "%s", result.Log)

	calls, err := filepath.Glob(recording + "/*.txt")
	require.NoError(t, err)
	require.Len(t, calls, 11)
	require.Len(t, result.Calls, 11)
	for _, file := range calls {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) { compareCall(t, readRecorded(t, file), filepath.Join(dump, name), caller.Driver) })
	}
	entries, err := os.ReadDir(caller.TempDir)
	require.NoError(t, err)
	require.Empty(t, entries, "the runner removes its directories")
}

func compareCall(t *testing.T, want map[string]string, ours, driver string) {
	read := func(ext string) string {
		content, err := os.ReadFile(ours + ext)
		require.NoError(t, err)
		return normaliseDirs(string(content))
	}
	require.Equal(t, want["argv"], strings.ReplaceAll(read(".argv"), driver, "/opt/driver/driver"))
	require.Equal(t, want["cwd"], read(".cwd"))
	require.Equal(t, want["umask"], read(".umask"))
	require.Equal(t, "/dev/null\n", read(".stdin"))
	group := strings.Fields(read(".pgid"))
	require.Equal(t, group[0], group[1], "the driver leads its process group")
	require.Equal(t, parseEnv(want["env"]), parseEnv(read(".env")))
	require.Equal(t, parseListing(want["cwd listing (mode)"]), parseFiles(read(".files")))
	if script, err := os.ReadFile(ours + ".script"); err == nil {
		recorded, err := os.ReadFile(filepath.Join(recording, filepath.Base(ours)+".script"))
		require.NoError(t, err)
		require.Equal(t, normaliseScript(string(recorded)), normaliseScript(string(script)))
	}
}

func TestJobResponseIsTheRecordedOne(t *testing.T) {
	recorded, err := os.ReadFile(recording + "/job_response.json")
	require.NoError(t, err)
	var want, got any
	require.NoError(t, json.Unmarshal(recorded, &want))
	require.NoError(t, json.Unmarshal(recordedJob().filled().response(), &got))
	require.Equal(t, want, got)
}

func TestRecordedScriptsRun(t *testing.T) {
	// The generated scripts are not only alike but work: run them all with bash.
	result := (&Caller{Driver: writeDriver(t, shellDriver(t)), RetryInterval: time.Millisecond}).Run(context.Background(), Job{
		ID: 7, Script: []string{"pwd", `echo "id $CI_JOB_ID, file $(cat $A_FILE)"`, "echo one\necho two", "exit 3"},
		AfterScript: []string{`echo "after: $CI_JOB_STATUS"`},
		Variables:   []Variable{{Key: "A_FILE", Value: "it's\tin here é", File: true}},
	})
	require.False(t, result.Success)
	require.Equal(t, ScriptFailure, result.Reason)
	require.Equal(t, 3, result.ExitCode)
	require.Contains(t, result.Log, "/group/project\n")
	require.Contains(t, result.Log, "id 7, file it's\tin here é\n")
	require.Contains(t, result.Log, "one\ntwo\n")
	require.Contains(t, result.Log, "after: failed\n")
}

// shellDriver is the smallest complete driver: it runs scripts on this machine, each job in a directory of its own.
func shellDriver(t *testing.T) string {
	dir := t.TempDir()
	return fmt.Sprintf(`#!/bin/bash
case $1 in
config) echo "{\"builds_dir\":\"%[1]s/$$/builds\",\"cache_dir\":\"%[1]s/cache\",\"job_env\":{\"HANDLE\":\"h1\"}}";;
prepare) echo "preparing $HANDLE";;
run) /bin/bash "$2"; status=$?
  [ $status = 0 ] || { echo $status > "$BUILD_EXIT_CODE_FILE"; exit $BUILD_FAILURE_EXIT_CODE; };;
cleanup) echo "cleaned up $HANDLE"; echo "a warning" >&2;;
esac
`, dir)
}

func writeDriver(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "driver")
	require.NoError(t, os.WriteFile(file, []byte(script), 0o755))
	return file
}

// readRecorded splits a recorded call into its "## " sections.
func readRecorded(t *testing.T, file string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	sections := map[string]string{}
	for _, section := range strings.Split("\n"+string(content), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		sections[title] = normaliseDirs(strings.TrimSuffix(body, "\n") + "\n")
	}
	return sections
}

var (
	attemptDir = regexp.MustCompile(`[^ \[="]*/custom-executor[0-9]+`)
	scriptDir  = regexp.MustCompile(`\bscript[0-9]+`)
)

func normaliseDirs(text string) string {
	return scriptDir.ReplaceAllString(attemptDir.ReplaceAllString(text, "CWD"), "scriptN")
}

// normaliseScript removes what differs from run to run, and the signed addresses of the recorded runner's
// cache server, which our runner has not. It returns lines, for a readable difference.
func normaliseScript(script string) []string {
	script = regexp.MustCompile(`(?i)(correlation.id: )[0-9a-f]{32}`).ReplaceAllString(script, "${1}ID")
	script = regexp.MustCompile(` --(alternate-)?(head-|check-)?url \$\\'http://127.0.0.1:9/[^']*\\'`).ReplaceAllString(script, "")
	script = regexp.MustCompile(` --header \$\\'[^']*\\'`).ReplaceAllString(script, "")
	return strings.Split(strings.ReplaceAll(script, `\n`, "\n"), "\n")
}

var entryStart = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=`)

func parseEnv(text string) map[string]string {
	env, key := map[string]string{}, ""
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if m := entryStart.FindStringSubmatch(line); m != nil {
			key = m[1]
			env[key] = line[len(m[0]):]
		} else {
			env[key] += "\n" + line
		}
	}
	return env
}

// parseListing reads ls -lR into sorted "mode path" lines.
func parseListing(text string) []string {
	var files []string
	dir := ""
	for _, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutSuffix(line, ":"); ok {
			dir = strings.TrimPrefix(strings.TrimPrefix(name, "."), "/")
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 6 || strings.HasPrefix(fields[len(fields)-1], ".") {
			continue
		}
		files = append(files, fields[0]+" "+filepath.Join(dir, fields[len(fields)-1]))
	}
	sort.Strings(files)
	return files
}

// parseFiles reads find -printf '%M %y %P' into the same.
func parseFiles(text string) []string {
	var files []string
	for _, line := range strings.Split(text, "\n") {
		if fields := strings.Fields(line); len(fields) == 3 {
			files = append(files, fields[0]+" "+fields[2])
		}
	}
	sort.Strings(files)
	return files
}
