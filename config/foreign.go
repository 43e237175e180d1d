package config

import (
	"slices"
	"strings"
)

// What follows knows the keys of GitLab Runner's config.toml (common/config.go of GitLab Runner 19.4) that Airlock has not: who
// comes from the Docker executor brings them along, and "remove it" would not report whether something is missing then.

// ofRunner is what is said of a key that belongs into GitLab Runner's file; ofDocker, of one of its docker executor's.
const (
	ofRunner = "is a key of GitLab Runner's own config.toml"
	ofDocker = "is a key of GitLab Runner's docker executor, which Airlock has not"
)

// dockerKey returns what to do about an unknown key of the docker executor's, by its last part: wherever it stands, the
// administrator means the same. It is empty for all others.
func dockerKey(name string) (remedy string) {
	last := normal(lastPart(name))
	if strings.HasPrefix(last, "service_") || strings.HasPrefix(last, "services_") && dockerKeys[last] == "" {
		return dockerKeys["services"]
	}
	return dockerKeys[last]
}

// runnerKey is dockerKey for the runner's other keys.
func runnerKey(name string) (remedy string) {
	if table := runnerKeys[normal(lastPart(name))]; table != "" {
		return "remove it here; it goes on working there, " + table
	}
	return ""
}

// unknownKey returns what is said of a key that nobody knows, or GitLab Runner alone.
func unknownKey(name string, known []key) (message, remedy string) {
	if isRunners(name) {
		return unknownTable(name)
	}
	if remedy := dockerKey(name); remedy != "" {
		return ofDocker, remedy
	}
	if remedy := runnerKey(name); remedy != "" {
		return ofRunner, remedy
	}
	if near := nearestKey(name, known); near != "" {
		return "unknown key", near
	}
	return "unknown key", "remove it; the known keys are in the annotated example of the documentation"
}

// unknownTable is unknownKey for a table.
func unknownTable(name string) (message, remedy string) {
	switch first, _, _ := strings.Cut(name, "."); {
	case isRunners(name):
		return "unknown table: this looks like GitLab Runner's own config.toml",
			"keep [[runners]] in that file, with airlock-driver in [runners.custom]; Airlock's settings stand at the top level of " + DefaultPath +
				" (airlock config example)"
	case normal(first) == "docker":
		return "is the table of GitLab Runner's docker executor",
			"write the keys that Airlock has, such as image, memory and cpus, at the top level (airlock config example)"
	}
	if remedy := dockerKey(name); remedy != "" {
		return ofDocker, remedy
	}
	if remedy := runnerKey(name); remedy != "" {
		return ofRunner, remedy
	}
	if near := nearestTable(name); near != "" {
		return "unknown table", near
	}
	return "unknown table", "remove it; the tables are [" + strings.Join(tableNames(), "], [") + "]"
}

// isRunners reports whether a table or key is [[runners]] or below it, by which the runner's own file is recognised.
func isRunners(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return normal(first) == "runners"
}

// settleForeign gives a file that is GitLab Runner's own one answer, the first that was said of its [[runners]]; what is said
// of the runner's other keys goes, and what is wrong with Airlock's stays.
func settleForeign(all *Error) {
	said := false
	if !slices.ContainsFunc(all.Problems, func(p Problem) bool { return isRunners(p.Key) }) {
		return
	}
	all.Problems = slices.DeleteFunc(all.Problems, func(p Problem) bool {
		if isRunners(p.Key) && !said {
			said = true
			return false
		}
		return isRunners(p.Key) || p.Message == ofRunner || p.Message == ofDocker
	})
}

const (
	inGlobal  = "at the top level"
	inRunner  = "below [[runners]]"
	inCustom  = "in [runners.custom]"
	noVolumes = "no directory of the host is ever shared with a job; files reach it through its repository, cache, artifacts or image"
	noRights  = "no job is given rights beyond Docker's default set; one that needs its own kernel gets it with isolation = \"hypervisor\""
	noDevices = "no device of the host is ever given to a job; run such jobs on a runner of their own"
	useCPUs   = "cpus bounds the processor time of a job, as in cpus = \"2\"; which processors those are, the kernel decides"
	useMemory = "memory bounds all that a job may use, without swap beyond it"
)

// dockerKeys are the keys of [runners.docker] with what to do instead, or why there is nothing.
var dockerKeys = map[string]string{
	"privileged":                   noRights + "; images are built without privileges by kaniko, buildah or BuildKit's rootless mode, if they need no user namespaces",
	"services_privileged":          noRights,
	"allowed_privileged_images":    noRights,
	"allowed_privileged_services":  noRights,
	"cap_add":                      noRights,
	"cap_drop":                     "jobs have Docker's default capabilities and no_new_privileges; for less, run them in an image with a USER",
	"security_opt":                 "seccomp's default profile and no_new_privileges always hold; there is nothing to choose",
	"userns_mode":                  noRights,
	"sysctls":                      noRights,
	"pid_mode":                     "a job never sees processes other than its own",
	"ipcmode":                      "a job never shares memory with others",
	"devices":                      noDevices,
	"device_cgroup_rules":          noDevices,
	"gpus":                         noDevices,
	"volumes":                      noVolumes,
	"volumes_from":                 noVolumes,
	"volume_driver":                noVolumes,
	"volume_driver_ops":            noVolumes,
	"volume_keep":                  "a job's disk always goes with it; what shall stay is a cache or an artifact",
	"cache_dir":                    "caches are kept in state_dir, apart for each project; cache.scope says whether they are at all",
	"disable_cache":                `write scope = "job" in [cache], and nothing is kept from job to job`,
	"shm_size":                     "/dev/shm has 64 MiB, Docker's default, and counts as the job's memory; Chromium takes --disable-dev-shm-usage",
	"tmpfs":                        "a job writes to its own disk, of scratch_size; scratch = \"tmpfs\" in [cache] keeps it in memory",
	"ulimit":                       "pids_limit and memory bound a job; the rest are Docker's defaults",
	"oom_kill_disable":             "a job beyond its memory is always ended: otherwise it would hang; set memory as high as it needs",
	"oom_score_adjust":             "a job beyond its memory is ended alone, whatever the others use",
	"memory_swap":                  useMemory,
	"memory_reservation":           useMemory,
	"cpuset_cpus":                  useCPUs,
	"cpuset_mems":                  useCPUs,
	"cpu_shares":                   useCPUs,
	"services":                     "services are chosen in .gitlab-ci.yml alone, and bounded by services in [[policy.rules]]",
	"allowed_services":             "write services in [[policy.rules]], patterns as in allowed_images",
	"wait_for_services_timeout":    "services are chosen in .gitlab-ci.yml alone; there is no waiting to configure",
	"links":                        "a job reaches no other container; extra_hosts gives names to addresses",
	"network_mtu":                  "the MTU is that of the host's way out, found by itself",
	"enable_ipv6":                  "jobs have IPv4 alone, and no IPv6 is let through",
	"mac_address":                  "every sandbox gets an address of its own",
	"hostname":                     "every sandbox gets a host name of its own",
	"user":                         "a job runs as its image's USER, root without one",
	"allowed_users":                "a job runs as its image's USER, root without one",
	"group_add":                    "a job has its USER's groups in the image's /etc/group",
	"disable_entrypoint_overwrite": "entrypoints are not run",
	"helper_image_flavor":          "name the whole image with helper_image",
	"container_labels":             "there is no Docker daemon to show them; airlock ps and inspect show a job's project and pipeline",
	"log_options":                  "there is no Docker daemon whose log they would be for; a job's output goes to GitLab",
	"host":                         "there is no Docker daemon: Airlock makes containers and virtual machines itself",
	"tls_verify":                   "there is no Docker daemon to connect to",
	"tls_cert_path":                "there is no Docker daemon to connect to",
}

// dockerNetworks and dockerLevels are values of the docker executor's for keys that Airlock has, too, with what is to be said
// about them. What stands before a colon counts.
var (
	dockerNetworks = map[string]string{
		"bridge":    "with \"nat\", each job has a network of its own behind the host's address",
		"default":   "with \"nat\", each job has a network of its own behind the host's address",
		"host":      "no job ever shares the host's network; allow in [network] names what it may reach there and nearby",
		"container": "no job ever shares the network of another",
	}
	dockerLevels = map[string]string{
		"hyperv":  "a Hyper-V container is \"hypervisor\"",
		"default": "without this key it is \"hypervisor\"",
	}
)

// choiceBeside is choice, for a key of which GitLab Runner's docker executor has other choices.
func (r *reading) choiceBeside(dockers map[string]string, dst *string, names ...string) {
	text, _ := r.value.(string)
	first, _, _ := strings.Cut(text, ":")
	if note := dockers[strings.ToLower(first)]; note != "" {
		r.wrong("%s is not a choice", "use "+alternatives(names)+": "+note)
		return
	}
	r.choice(dst, names...)
}

// runnerKeys are the other keys of GitLab Runner's config.toml, in their normal form, with where they stand there.
var runnerKeys = foldTables(map[string]string{
	inGlobal: "session_server concurrent check_interval log_field_schema_version log_field_dual_emit_target sentry_dsn connection_max_age shutdown_timeout experimental",
	inRunner: "name limit output_limit request_concurrency strict_check_interval unhealthy_requests_limit unhealthy_interval " +
		"job_status_final_update_retry_limit url id token token_obtained_at token_expires_at tls_ca_file tls_cert_file tls_key_file labels executor builds_dir " +
		"clone_url environment proxy_exec pre_get_sources_script post_get_sources_script pre_clone_script post_clone_script pre_build_script post_build_script prepare_timeout " +
		"get_sources_timeout debug_trace_disabled safe_directory_checkout clean_git_config shell custom_build_dir referees artifact feature_flags monitoring " +
		"use_slot_cgroups slot_cgroup_template ssh parallels virtualbox machine kubernetes custom autoscaler instance step_runner_image",
	inCustom: "config_exec config_args config_exec_timeout prepare_exec prepare_args prepare_exec_timeout run_exec run_args cleanup_exec cleanup_args " +
		"cleanup_exec_timeout force_kill_timeout",
	"in [runners.cache]": "type shared maxuploadedarchivesize s3 gcs azure",
})

// foldTables turns "where: keys" into "key: where".
func foldTables(keys map[string]string) map[string]string {
	folded := map[string]string{}
	for where, names := range keys {
		for name := range strings.FieldsSeq(names) {
			folded[name] = where
		}
	}
	return folded
}
