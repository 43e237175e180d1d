package gitlabtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// variables is a list of variables in the runner's order; of several with one key the last counts.
type variables []Variable

func (vs variables) get(key string) string {
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].Key == key {
			return vs[i].Value
		}
	}
	return ""
}

// expanded replaces $KEY and ${KEY} in all values that are not raw.
func (vs variables) expanded() variables {
	out := make(variables, len(vs))
	for i, v := range vs {
		if !v.Raw {
			v.Value = os.Expand(v.Value, vs.get)
		}
		out[i] = v
	}
	return out
}

// featureFlags are the flags of runner 19.4 with their defaults, which it makes variables too; "+" is true.
const featureFlags = `TEST_FEATURE NETWORK_PER_BUILD USE_LEGACY_KUBERNETES_EXECUTION_STRATEGY +USE_DIRECT_DOWNLOAD
+USE_FASTZIP DISABLE_UMASK_FOR_DOCKER_EXECUTOR ENABLE_BASH_EXIT_CODE_CHECK USE_WINDOWS_LEGACY_PROCESS_STRATEGY
USE_LEGACY_BASH_EVAL USE_POWERSHELL_PATH_RESOLVER USE_DYNAMIC_TRACE_FORCE_SEND_INTERVAL SCRIPT_SECTIONS
ENABLE_JOB_CLEANUP KUBERNETES_HONOR_ENTRYPOINT POSIXLY_CORRECT_ESCAPES RESOLVE_FULL_TLS_CHAIN
DISABLE_POWERSHELL_STDIN +USE_POD_ACTIVE_DEADLINE_SECONDS USE_ADVANCED_POD_SPEC_CONFIGURATION
+SECRET_RESOLVING_FAILS_IF_MISSING PRINT_POD_EVENTS +USE_GIT_BUNDLE_URIS USE_GIT_NATIVE_CLONE
USE_DUMB_INIT_WITH_KUBERNETES_EXECUTOR USE_INIT_WITH_DOCKER_EXECUTOR LOG_IMAGES_CONFIGURED_FOR_JOB
+USE_DOCKER_AUTOSCALER_DIAL_STDIO CLEAN_UP_FAILED_CACHE_EXTRACT USE_WINDOWS_JOB_OBJECT +TIMESTAMPS
DISABLE_AUTOMATIC_TOKEN_ROTATION USE_LEGACY_GCS_CACHE_ADAPTER DISABLE_UMASK_FOR_KUBERNETES_EXECUTOR
USE_LEGACY_S3_CACHE_ADAPTER GIT_URLS_WITHOUT_TOKENS WAIT_FOR_POD_TO_BE_REACHABLE +MASK_ALL_DEFAULT_TOKENS
EXPORT_HIGH_CARDINALITY_METRICS USE_FLEETING_ACQUIRE_HEARTBEATS +USE_EXPONENTIAL_BACKOFF_STAGE_RETRY
+USE_ADAPTIVE_REQUEST_CONCURRENCY +USE_GITALY_CORRELATION_ID USE_GIT_PROACTIVE_AUTH HASH_CACHE_KEYS
+ENABLE_JOB_INPUTS_INTERPOLATION USE_JOB_ROUTER SCRIPT_TO_STEP_MIGRATION USE_PARALLEL_CACHE_TRANSFER
USE_PARALLEL_ARTIFACT_TRANSFER CONCRETE SUSPENDABLE_ENVIRONMENTS USE_NATIVE_CONTAINER_STOP`

// recordedRevision is the recorded runner's, a build like BuildRunner's.
const recordedRevision = "localbench"

// build is a job on one runner: the job, what the runner's configuration adds, and what config_exec replied.
type build struct {
	Job
	runnerEnvironment []Variable // [[runners]] environment
	correlationID     string     // of the request for the job

	rootDir, cacheDir string // builds_dir and cache_dir; empty until config_exec replied
	hostname          string

	mu  sync.Mutex // cleanup may read them beside a living stage
	all variables
}

// vars returns all variables, expanded.
func (b *build) vars() variables {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all
}

// set changes a variable wherever it occurs.
func (b *build) set(key, value string) {
	changed := slices.Clone(b.vars())
	for i := range changed {
		if changed[i].Key == key {
			changed[i].Value = value
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = changed
}

// refresh computes all variables anew, in the runner's order of precedence.
func (b *build) refresh() {
	public := func(key, value string) Variable { return Variable{Key: key, Value: value, Public: true} }
	var vs variables
	for _, flag := range strings.Fields(featureFlags) {
		name, on := strings.CutPrefix(flag, "+")
		vs = append(vs, public("FF_"+name, fmt.Sprint(on)))
	}
	if b.Image != "" {
		vs = append(vs, public("CI_JOB_IMAGE", b.Image))
	}
	vs = append(vs, public("CI_RUNNER_SHORT_TOKEN", "benchtoke"))
	vs = append(vs, b.runnerEnvironment...)
	vs = append(vs,
		public("CI_BUILDS_DIR", b.rootDir),
		public("CI_PROJECT_DIR", b.projectDir()),
		public("CI_CONCURRENT_ID", "0"),
		public("CI_CONCURRENT_PROJECT_ID", "0"),
		public("CI_SERVER", "yes"),
		public("CI_JOB_STATUS", "running"),
		public("CI_JOB_TIMEOUT", fmt.Sprint(int64(b.Timeout.Seconds()))))
	vs = append(vs, b.predefined()...)
	vs = append(vs,
		public("CI_SHARED_ENVIRONMENT", "true"),
		public("CI_RUNNER_VERSION", RunnerVersion),
		public("CI_RUNNER_REVISION", recordedRevision),
		public("CI_RUNNER_EXECUTABLE_ARCH", "linux/amd64"),
		public("RUNNER_TEMP_PROJECT_DIR", b.tmpDir()))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = vs.expanded()
}

// projectDir is the directory below builds_dir that the repository is cloned into; empty before config_exec.
func (b *build) projectDir() string {
	if b.rootDir == "" {
		return ""
	}
	return path.Join(b.rootDir, b.ProjectPath)
}

// tmpDir is the runner's own directory beside the project's.
func (b *build) tmpDir() string { return b.projectDir() + ".tmp" }

// servicesVariable is CI_JOB_SERVICES, the form in which a custom executor's driver is told of services.
func (b *build) servicesVariable() Variable {
	type service struct {
		Name       string            `json:"name"`
		Alias      string            `json:"alias"`
		Entrypoint []string          `json:"entrypoint"`
		Command    []string          `json:"command"`
		Variables  map[string]string `json:"variables,omitempty"`
	}
	if len(b.Services) == 0 {
		return Variable{Key: "CI_JOB_SERVICES"}
	}
	var services []service
	for _, s := range b.Services {
		all := slices.Concat(b.vars(), s.Variables).expanded()
		values := map[string]string{}
		for _, v := range s.Variables {
			values[v.Key] = all.get(v.Key)
		}
		services = append(services, service{s.Name, s.Alias, s.Entrypoint, s.Command, values})
	}
	text, err := json.Marshal(services)
	if err != nil {
		panic(fmt.Sprintf("gitlabtest: CI_JOB_SERVICES cannot be encoded: %v", err)) // strings cannot fail
	}
	return Variable{Key: "CI_JOB_SERVICES", Value: string(text)}
}
