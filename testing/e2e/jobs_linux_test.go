package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/images"
	"github.com/airlock-ci/airlock/testing/system"
)

// kind is a kind of job that users have, and what GitLab hears of it. All of them go through one runner and one Airlock,
// several at once.
type kind struct {
	name string
	job  gitlabtest.Job
	// after names the kind that has to be done before; with needs, its artifacts are this one's.
	after string
	needs bool
	// during acts while the job runs, once it has printed "ready".
	during func(id int64)
	// reason is why it fails, empty for success; code is the script's status, 0 for none in particular.
	reason string
	code   int
	// says and never are what is at the start of a line of its log, without colours, and what is nowhere in it.
	says, never []string
	artifacts   []string
	// everywhere are the kinds that run at the hypervisor level too.
	everywhere bool
}

// TestARealRunnersJobs runs every kind of job through GitLab Runner, in containers. `make test-runner` has virtual machines.
func TestARealRunnersJobs(t *testing.T) { aRealRunnersJobs(t, "process") }

func aRealRunnersJobs(t *testing.T, level string) {
	b := start(t, system.Options{Isolation: level})
	b.realRunner(4)
	var kinds []kind
	for _, k := range b.kinds() {
		if level == "process" || k.everywhere {
			kinds = append(kinds, k)
		}
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Minute, fmt.Errorf("the jobs do not end"))
	defer cancel()
	type finished struct {
		kind
		record gitlabtest.JobRecord
	}
	ended := make(chan finished, len(kinds))
	begin := func(k kind) { go func() { ended <- finished{k, b.through(ctx, k)} }() }
	for _, k := range kinds {
		if k.after == "" {
			begin(k)
		}
	}
	for range kinds {
		one := <-ended
		t.Run(one.name, func(t *testing.T) { one.check(t, one.record) })
		for _, k := range kinds {
			if k.after == one.name {
				if k.needs {
					k.job.Dependencies = []gitlabtest.Dependency{b.gitlab.Dependency(one.record.ID)}
				}
				begin(k)
			}
		}
	}
	b.nothingLives()
	t.Run("four at once", func(t *testing.T) { b.in(t).fourAtOnce() })
}

// through runs a job to its end and returns what GitLab knows of it then.
func (b *bench) through(ctx context.Context, k kind) gitlabtest.JobRecord {
	id := b.queue(k.job)
	if k.during != nil {
		for ctx.Err() == nil && !b.gitlab.Job(id).Done() && !strings.Contains(b.gitlab.Job(id).Trace, "\nready") {
			time.Sleep(50 * time.Millisecond)
		}
		k.during(id)
	}
	record, _ := b.gitlab.Wait(ctx, id) // a job that has not ended shows in its record
	return record
}

// canceled is the reason that the runner gives for a job that GitLab has cancelled, when GitLab's own list of reasons
// has none for that.
const canceled = "unknown_failure"

// colours are what the runner puts into a log beside the text.
var colours = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

func (k kind) check(t *testing.T, record gitlabtest.JobRecord) {
	trace := colours.ReplaceAllString(strings.ReplaceAll(record.Trace, "\r", "\n"), "")
	shown := trace
	const part = 4 << 10
	if len(shown) > 2*part {
		shown = shown[:part] + "\n[...]\n" + shown[len(shown)-part:]
	}
	if k.reason == "" {
		require.Equal(t, "success", record.State, shown)
	} else {
		require.Equal(t, "failed", record.State, shown)
		require.Equal(t, k.reason, record.FailureReason, shown)
	}
	if k.code != 0 {
		require.NotNil(t, record.ExitCode, shown)
		require.Equal(t, k.code, *record.ExitCode, shown)
	}
	for _, text := range k.says {
		require.True(t, strings.Contains(trace, "\n"+text), "no line begins with %q:\n%s", text, shown)
	}
	for _, text := range k.never {
		require.False(t, strings.Contains(trace, text), "there is %q:\n%s", text, shown)
	}
	if k.artifacts != nil {
		require.Equal(t, k.artifacts, zipped(t, record.Artifacts))
	}
}

// fourAtOnce has four jobs wait for each other.
func (b *bench) fourAtOnce() {
	var ids []int64
	for i := range 4 {
		ids = append(ids, b.queue(gitlabtest.Job{Script: []string{
			fmt.Sprintf("echo job-%d > /builds/mine", i), "echo waiting", "until [ -e /tmp/go ]; do sleep 0.1; done", "cat /builds/mine", "ls /builds | wc -l",
		}}))
	}
	for _, id := range ids {
		b.prints(id, "waiting")
	}
	addresses := map[string]bool{}
	for _, s := range b.ps() {
		require.Equal(b.t, "running", s.State)
		require.Equal(b.t, "build_script", s.Stage)
		addresses[s.Address] = true
	}
	require.Len(b.t, addresses, len(ids), "all run at once, each with an address of its own")
	for i, id := range ids {
		b.airlock("shell", fmt.Sprint(id), "--", "touch", "/tmp/go")
		record := b.ended(id)
		require.Equal(b.t, "success", record.State, record.Trace)
		require.Contains(b.t, record.Trace, fmt.Sprintf("\njob-%d", i))
	}
	b.nothingLives()
}

// kinds are the jobs. Those that others wait for come first, long ones early.
func (b *bench) kinds() []kind {
	all := append(b.sources(), b.ends()...)
	all = append(all, b.inside()...)
	return append(all, b.limits()...)
}

// waits keeps a script running, and the runner reporting, which is when it hears of a cancel.
const waits = "while :; do echo tick; sleep 0.5; done"

// ends are the ways in which jobs end.
func (b *bench) ends() []kind {
	variables := func(pairs ...string) (all []gitlabtest.Variable) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, gitlabtest.Variable{Key: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	return []kind{
		{
			name: "failure in the middle", everywhere: true,
			job: gitlabtest.Job{
				Script:      []string{"echo before", "mkdir out; echo why > out/report", "sh -c 'exit 42'", "echo never reached"},
				AfterScript: []string{"echo after the $CI_JOB_STATUS"},
				Artifacts:   []gitlabtest.Artifact{{Name: "why", Paths: []string{"out/"}, When: "on_failure"}},
			},
			reason: gitlabtest.ScriptFailure, code: 42, says: []string{"before", "after the failed"}, never: []string{"\nnever reached"},
			artifacts: []string{"out/", "out/report"},
		},
		{
			name: "no forged system failure", job: gitlabtest.Job{Script: []string{"exit 2"}}, reason: gitlabtest.ScriptFailure, code: 2,
		},
		{
			name: "killed by itself", job: gitlabtest.Job{Script: []string{"kill -9 $$"}}, reason: gitlabtest.ScriptFailure, code: 137,
		},
		{
			name: "failing after_script",
			job:  gitlabtest.Job{Script: []string{"true"}, AfterScript: []string{"echo job $CI_JOB_STATUS", "exit 3"}},
			says: []string{"job success"},
		},
		{
			name: "graceful cancel", everywhere: true,
			job: gitlabtest.Job{
				Script:      []string{"touch /tmp/marker", "(setsid sleep 1000 &)", "echo ready", waits},
				AfterScript: []string{"ls /tmp/marker", "echo status $CI_JOB_STATUS", "echo sleepers: $(cat /proc/[0-9]*/comm | grep -c sleep)"},
			},
			during: b.gitlab.Cancel,
			reason: canceled, says: []string{"/tmp/marker", "status canceled", "sleepers: 0", "ERROR: Job failed: canceled"},
		},
		{
			name: "forced cancel", everywhere: true,
			job:    gitlabtest.Job{Script: []string{"echo ready", waits}, AfterScript: []string{"echo must not run"}},
			during: b.gitlab.ForceCancel,
			reason: canceled, says: []string{"ready"}, never: []string{"\nmust not run"}, // GitLab takes no more of its log
		},
		{
			name:   "job time-out",
			job:    gitlabtest.Job{Timeout: 15 * time.Second, Script: []string{"sleep 1000"}, AfterScript: []string{"echo must not run"}},
			reason: gitlabtest.JobTimeout, never: []string{"\nmust not run"},
		},
		{
			name: "script time-out",
			job: gitlabtest.Job{
				Variables: variables("RUNNER_SCRIPT_TIMEOUT", "3s"),
				Script:    []string{"sleep 1000"}, AfterScript: []string{"echo there is time to tidy up"},
			},
			reason: gitlabtest.JobTimeout, says: []string{"there is time to tidy up"},
		},
		{
			name: "after_script time-out",
			job: gitlabtest.Job{
				Variables: variables("RUNNER_AFTER_SCRIPT_TIMEOUT", "3s"),
				Script:    []string{"echo done"}, AfterScript: []string{"echo begun", "sleep 1000"},
			},
			says: []string{"done", "begun"},
		},
		{
			name: "no such image", job: gitlabtest.Job{Image: b.registry + "/absent", Script: []string{"echo must not run"}},
			reason: gitlabtest.ScriptFailure, never: []string{"\nmust not run", "Will be retried"},
		},
	}
}

// sources are jobs that move files: repositories, caches, artifacts.
func (b *bench) sources() []kind {
	repository := func(path string, files map[string]string, submodules ...gitlabtest.Submodule) gitlabtest.Repository {
		return must(b.gitlab.AddRepository(context.Background(), path, files, submodules...))
	}
	strategy := func(value string) []gitlabtest.Variable {
		return []gitlabtest.Variable{{Key: "GIT_STRATEGY", Value: value}}
	}
	plain := repository("group/project", map[string]string{"hello.txt": "from the repository\n"})
	inner := repository("group/inner", map[string]string{"inner.txt": "from the submodule\n"})
	outer := repository("group/outer", map[string]string{"outer.txt": "x"}, gitlabtest.Submodule{Path: "parts/inner", Repository: inner})
	large := repository("group/large", map[string]string{
		".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "big.bin": b.gitlab.AddLargeFile("what the large file says\n"),
	})
	protected := true // only such jobs share a cache
	cached := func(key string, fallback []string, script ...string) gitlabtest.Job {
		return plain.Build(gitlabtest.Job{
			Protected: &protected, Script: script,
			Cache: []gitlabtest.Cache{{Key: key, Paths: []string{"kept/"}, FallbackKeys: fallback}},
		})
	}
	return []kind{
		{
			name: "artifacts up", everywhere: true,
			job: plain.Build(gitlabtest.Job{
				Script:    []string{"cat hello.txt", `test "$(git rev-parse HEAD 2>/dev/null || echo $CI_COMMIT_SHA)" = "$CI_COMMIT_SHA"`, "mkdir -p out; echo built > out/a.txt"},
				Artifacts: []gitlabtest.Artifact{{Name: "art", Paths: []string{"out/"}}},
			}),
			says: []string{"from the repository"}, artifacts: []string{"out/", "out/a.txt"},
		},
		{
			name: "artifacts down", everywhere: true, after: "artifacts up", needs: true,
			job: gitlabtest.Job{Script: []string{"cat out/a.txt"}}, says: []string{"built"},
		},
		{
			name: "a new cache", job: cached("main", nil, "cat kept/note 2>/dev/null || echo no cache", "mkdir -p kept; echo remembered > kept/note"),
			says: []string{"no cache"},
		},
		{
			name: "a cache with a fallback key", after: "a new cache",
			job: cached("branch", []string{"absent", "main"}, "cat kept/note"), says: []string{"remembered"},
		},
		{
			name: "submodules", job: outer.Build(gitlabtest.Job{
				ProjectPath: "group/outer", Variables: []gitlabtest.Variable{{Key: "GIT_SUBMODULE_STRATEGY", Value: "recursive"}},
				Script: []string{"cat parts/inner/inner.txt"},
			}), says: []string{"from the submodule"},
		},
		{
			name: "LFS", job: large.Build(gitlabtest.Job{ProjectPath: "group/large", Script: []string{"cat big.bin"}}),
			says: []string{"what the large file says"},
		},
		{
			name: "strategy clone", job: plain.Build(gitlabtest.Job{Variables: strategy("clone"), Script: []string{"cat hello.txt"}}),
			says: []string{"from the repository"},
		},
		{
			name: "strategy none", job: plain.Build(gitlabtest.Job{Variables: strategy("none"), Script: []string{"pwd", "ls -a | wc -l"}}),
			says: []string{"/builds/group/project", "2"},
		},
		{
			name: "strategy empty", job: plain.Build(gitlabtest.Job{Variables: strategy("empty"), Script: []string{"pwd", "ls -a | wc -l"}}),
			says: []string{"/builds/group/project", "2"},
		},
	}
}

// inside are jobs that look at where they are.
func (b *bench) inside() []kind {
	busybox := archived(b.t, must(images.Busybox(context.Background())))
	user := b.push(asUser(b.t, busybox, "1234:4321"), "user")
	bash := b.push(archived(b.t, must(images.Bash(context.Background()))), "bash")
	private := b.privateRegistry("carol", "let me in")
	credentials := []gitlabtest.Credentials{{Type: "registry", URL: strings.Split(private, "/")[0], Username: "carol", Password: "let me in"}}
	plain := must(b.gitlab.AddRepository(context.Background(), "group/user", map[string]string{"file": "x"}))
	return []kind{
		{
			name: "variables", everywhere: true,
			job: gitlabtest.Job{
				Variables: []gitlabtest.Variable{
					{Key: "SEVERAL", Value: "first\nsecond\n\tthird"}, {Key: "QUOTES", Value: `it's "so" \ and ` + "`such`"},
					{Key: "UNICODE", Value: "żółw 龜 🐢"}, {Key: "RAW", Value: "$HOME ${CI_JOB_ID} $$", Raw: true},
					{Key: "NESTED", Value: "job $CI_JOB_ID"}, {Key: "EMPTY"}, {Key: "HIDDEN", Value: "swordfish-4711", Masked: true},
					{Key: "A_FILE", Value: "in a file\n", File: true},
				},
				Script: []string{
					`test "$SEVERAL" = "$(printf 'first\nsecond\n\tthird')" && echo lines-are-right`, `printf '%s\n' "$QUOTES"`, `echo "$UNICODE"`, `echo "raw: $RAW"`,
					`test "$NESTED" = "job $CI_JOB_ID" && echo nested-is-right`, `echo "empty: [${EMPTY-unset}]"`, `echo "hidden: $HIDDEN"`, `echo "$HIDDEN" | rev`,
					`cat "$A_FILE"`, `case $A_FILE in $CI_PROJECT_DIR.tmp/*) echo beside the project;; esac`,
				},
			},
			says: []string{
				"lines-are-right", `it's "so" \ and ` + "`such`", "żółw 龜 🐢", "raw: $HOME ${CI_JOB_ID} $$", "nested-is-right", "empty: []", "hidden: [MASKED]",
				"1174-hsifdrows", "in a file", "beside the project",
			},
			never: []string{"swordfish"},
		},
		{
			name: "job inputs",
			job: gitlabtest.Job{
				Inputs: []gitlabtest.Input{{Key: "where", Value: gitlabtest.InputValue{Type: "string", Content: "over there"}}},
				Script: []string{`echo "it is ${{ job.inputs.where }}"`},
			},
			says: []string{"it is over there"},
		},
		{
			name: "a script of several lines",
			job:  gitlabtest.Job{Script: []string{"if true\nthen\n  echo line two\nfi", "cat <<'END'\nhere $HOME\nEND"}},
			says: []string{"line two", "here $HOME"},
		},
		{
			name: "an image's user", everywhere: true,
			job: plain.Build(gitlabtest.Job{
				ProjectPath: "group/user", Image: user,
				Script:    []string{"echo I am $(id -u):$(id -g)", "touch new file", "stat -c '%u:%g %n' file new"},
				Artifacts: []gitlabtest.Artifact{{Name: "a", Paths: []string{"new"}}},
			}),
			says: []string{"I am 1234:4321", "1234:4321 file", "1234:4321 new"}, artifacts: []string{"new"},
		},
		{
			// What the author asks for is not there yet; such a job may be warned, and runs with the image's own.
			name: "image:entrypoint and image:docker:user",
			job:  gitlabtest.Job{Entrypoint: []string{""}, ImageUser: "0", Script: []string{"echo the script runs"}},
			says: []string{"the script runs"},
		},
		{
			name: "no bash", everywhere: true,
			job: gitlabtest.Job{Script: []string{"echo bash is ${BASH_VERSION:-absent}"}}, says: []string{"bash is absent"},
		},
		{
			name: "bash", job: gitlabtest.Job{Image: bash, Script: []string{"[[ -t 0 ]] || echo no terminal"}}, says: []string{"no terminal"},
		},
		{
			name: "no shell", job: gitlabtest.Job{Image: b.push(scratchImage(b.t), "empty"), Script: []string{"echo must not run"}},
			reason: gitlabtest.ScriptFailure, never: []string{"\nmust not run", "Will be retried"},
		},
		{
			name: "a private registry", everywhere: true,
			job: gitlabtest.Job{Image: private, Credentials: credentials, Script: []string{"echo from a private image"}}, says: []string{"from a private image"},
		},
		{
			name: "a private registry without credentials", job: gitlabtest.Job{Image: private + "2", Script: []string{"echo must not run"}},
			reason: gitlabtest.ScriptFailure, never: []string{"\nmust not run", "Will be retried", "let me in"},
		},
	}
}

// limits are jobs that take much, or go on beside their script.
func (b *bench) limits() []kind {
	return []kind{
		{
			name: "a big log", job: gitlabtest.Job{Script: []string{"seq 1 90000", "echo the end"}}, says: []string{"1\n2\n3\n", "90000\n", "the end"},
		},
		{
			// The runner cuts a log at 4 MiB (output_limit); the script goes on.
			name: "a log beyond the runner's limit", everywhere: true,
			job: gitlabtest.Job{
				Script:    []string{"seq 1 500000", "mkdir out; echo all of it > out/end"},
				Artifacts: []gitlabtest.Artifact{{Name: "end", Paths: []string{"out/"}}},
			},
			says: []string{"1\n2\n3\n", "Job's log exceeded limit"}, artifacts: []string{"out/", "out/end"},
		},
		{
			name: "a silent script", job: gitlabtest.Job{Script: []string{"sleep 8", "echo still here"}}, says: []string{"still here"},
		},
		{
			name: "background processes", everywhere: true,
			job: gitlabtest.Job{
				Script:      []string{"sleep 1000 & (setsid sleep 1000 &)", "nohup sleep 1000 >/dev/null 2>&1 &", "echo left them"},
				AfterScript: []string{"echo sleepers: $(cat /proc/[0-9]*/comm | grep -c sleep)"},
			},
			says: []string{"left them", "sleepers: "},
		},
		{
			name: "out of memory", everywhere: true,
			job:    gitlabtest.Job{Script: []string{"dd if=/dev/zero of=/dev/null bs=700M count=1"}},
			reason: gitlabtest.ScriptFailure,
		},
		{
			name: "a full disk", job: gitlabtest.Job{
				Script:      []string{"head -c 2500000000 /dev/zero > big"},
				AfterScript: []string{"rm big; echo there is room again > note; cat note"},
			},
			reason: gitlabtest.ScriptFailure, says: []string{"there is room again"},
		},
	}
}

// privateRegistry serves busybox, under two names of which one ends in 2, to who knows the password.
func (b *bench) privateRegistry(user, password string) string {
	b.t.Helper()
	open := registry.New(registry.Logger(quiet))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if u, p, _ := req.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, req)
	}))
	require.NoError(b.t, server.Listener.Close())
	server.Listener = b.private
	server.Start()
	b.t.Cleanup(server.Close)
	reference := strings.TrimPrefix(server.URL, "http://") + "/private/busybox"
	busybox := archived(b.t, must(images.Busybox(context.Background())))
	for _, suffix := range []string{"", "2"} {
		ref, err := name.ParseReference(reference + suffix)
		require.NoError(b.t, err)
		require.NoError(b.t, remote.Write(ref, busybox, remote.WithAuth(&authn.Basic{Username: user, Password: password})))
	}
	return reference
}
