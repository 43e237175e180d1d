package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
)

// The keys of GitLab Runner 19.4 (common/config.go): type DockerConfig with what it embeds, and those of the other tables.
const (
	dockerKeys = `hostname image runtime memory memory_swap memory_reservation cgroup_parent cpuset_cpus cpuset_mems cpus cpu_shares dns
dns_search privileged services_privileged disable_entrypoint_overwrite user allowed_users group_add userns_mode cap_add cap_drop
oom_kill_disable oom_score_adjust security_opt services_security_opt devices device_cgroup_rules gpus services_devices disable_cache
volumes volume_keep volume_driver volume_driver_ops cache_dir extra_hosts volumes_from network_mode pid_mode ipcmode mac_address links
services services_limit service_memory service_memory_swap service_memory_reservation service_cgroup_parent service_slot_cgroup_template
service_cpuset_cpus service_cpus service_cpu_shares service_gpus wait_for_services_timeout allowed_images allowed_privileged_images
allowed_privileged_services allowed_pull_policies allowed_services pull_policy isolation shm_size tmpfs services_tmpfs sysctls helper_image
helper_image_flavor container_labels enable_ipv6 ulimit network_mtu log_options host tls_verify tls_cert_path`
	runnerKeys = `labels executor builds_dir clone_url environment proxy_exec pre_get_sources_script post_get_sources_script
pre_build_script post_build_script prepare_timeout get_sources_timeout debug_trace_disabled safe_directory_checkout clean_git_config shell
custom_build_dir referees artifact feature_flags monitoring use_slot_cgroups slot_cgroup_template instance ssh parallels virtualbox
machine kubernetes custom autoscaler step_runner_image name limit output_limit request_concurrency strict_check_interval
unhealthy_requests_limit unhealthy_interval job_status_final_update_retry_limit experimental url id token token_obtained_at
token_expires_at tls-ca-file tls-cert-file tls-key-file session_server concurrent check_interval log_field_schema_version
log_field_dual_emit_target user runners sentry_dsn connection_max_age shutdown_timeout config_exec config_args config_exec_timeout
prepare_exec prepare_args prepare_exec_timeout run_exec run_args cleanup_exec cleanup_args cleanup_exec_timeout force_kill_timeout`
)

// TestKeysOfGitLabRunnerAreAnswered: a key of the runner's that Airlock has not is told apart from a misspelt one, as a key, as a
// table, as a list of tables, and in a rule, with what to do instead.
func TestKeysOfGitLabRunnerAreAnswered(t *testing.T) {
	problem := func(text string) config.Problem {
		t.Helper()
		_, err := config.Parse([]byte(text), "/c.toml")
		var wrong *config.Error
		require.ErrorAs(t, err, &wrong, text)
		require.NotEmpty(t, wrong.Problems)
		return wrong.Problems[0]
	}
	own := config.KeyNames()
	for key := range strings.FieldsSeq(dockerKeys) {
		if slices.Contains(own, key) {
			continue
		}
		for _, text := range []string{"%s = true\n", "[%s]\na = 'b'\n", "[[%s]]\na = 'b'\n", "[cache]\n%s = 1\n",
			"[[policy.rules]]\nname = 'x'\nwhen = 'git.protected'\n%s = 1\n"} {
			if key == "services" && strings.Contains(text, "rules") {
				continue // a key of rules
			}
			p := problem(fmt.Sprintf(text, key))
			require.Equal(t, "is a key of GitLab Runner's docker executor, which Airlock has not", p.Message, "%s in %s", key, text)
			require.Greater(t, len(p.Remedy), 20, key)
		}
		require.NotContains(t, problem(strings.ToUpper(key)+" = 1\n").Message, "unknown key", key)
	}
	for key := range strings.FieldsSeq(runnerKeys) {
		p := problem(key + " = 'x'\n")
		require.NotContains(t, p.Message, "unknown key", key)
		require.NotContains(t, p.Remedy, "did you mean", key)
	}
	require.Contains(t, problem("privileged = true\n").Remedy, "no job is given rights beyond Docker's default set")
	require.Contains(t, problem("[docker]\nimage = 'x'\n").Remedy, "at the top level")
	require.Contains(t, problem("token = 'glrt-secret'\n").Remedy, "below [[runners]]")
}

// TestValuesOfGitLabRunnerAreAnswered: keys that both have, with choices that only the docker executor has.
func TestValuesOfGitLabRunnerAreAnswered(t *testing.T) {
	for text, want := range map[string]string{
		"network_mode = 'bridge'\n":       `/c.toml:1:16: network_mode: "bridge" is not a choice; use "nat" or "none": with "nat", each job has a network of its own`,
		"network_mode = 'host'\n":         `use "nat" or "none": no job ever shares the host's network`,
		"network_mode = 'container:db'\n": `use "nat" or "none": no job ever shares the network of another`,
		"network_mode = 'my-net'\n":       `"my-net" is not a choice; use "nat" or "none"`,
		"isolation = 'hyperv'\n":          `use "process" or "hypervisor": a Hyper-V container is "hypervisor"`,
		"[[policy.rules]]\nname='x'\nwhen='git.protected'\nnetwork = 'host'\n": `/c.toml:4:11: policy.rules.network: "host" is not a choice; use "nat" or "none": no job`,
	} {
		_, err := config.Parse([]byte(text), "/c.toml")
		require.ErrorContains(t, err, want)
	}
}

// TestTheRunnersWholeFile gets one answer, and what is wrong with Airlock's own keys beside it is said, too.
func TestTheRunnersWholeFile(t *testing.T) {
	const pasted = `concurrent = 4
check_interval = 0
log_level = "info"

[session_server]
  session_timeout = 1800

[[runners]]
  name = "x"
  token = "glrt-secret"
  executor = "docker"
  [runners.custom_build_dir]
  [runners.cache.s3]
  [runners.docker]
    image = "alpine"
    privileged = true
    volumes = ["/cache"]
    [[runners.docker.services]]
      name = "redis"
    [runners.docker.sysctls]
      "net.ipv4.ip_forward" = "1"

[[runners]]
  name = "y"
`
	_, err := config.Parse([]byte(pasted), "/c.toml")
	require.Equal(t, "/c.toml:8:3: runners: unknown table: this looks like GitLab Runner's own config.toml; keep [[runners]] in that file, "+
		"with airlock-driver in [runners.custom]; Airlock's settings stand at the top level of "+config.DefaultPath+" (airlock config example)", err.Error())
	_, err = config.Parse([]byte(strings.Replace(pasted, "concurrent", "memroy = 4\nconcurrent", 1)), "/c.toml")
	var wrong *config.Error
	require.ErrorAs(t, err, &wrong)
	require.Len(t, wrong.Problems, 2)
	for _, text := range []string{"[runners.docker]\nimage = 'x'\n", "runners = [{ name = 'x' }]\n", "[runners]\nname = 'x'\n", "[runners.custom]\nconfig_exec = 'x'\n"} {
		_, err := config.Parse([]byte(text), "/c.toml")
		require.ErrorAs(t, err, &wrong)
		require.Len(t, wrong.Problems, 1, text)
		require.Contains(t, err.Error(), "this looks like GitLab Runner's own config.toml", text)
	}
}

// TestEncodings: what editors of Windows write.
func TestEncodings(t *testing.T) {
	const mark = "\ufeff"
	require.Equal(t, "a", parse(t, mark+"image = 'a'\n").Image)
	require.Equal(t, "a", parse(t, mark+"# x\r\nimage = 'a'\r\n\r\n[cache]\r\nscope = 'job'\r\n").Image)
	require.Equal(t, config.Default(), parse(t, mark))
	utf16 := func(text string, high, low int) []byte {
		var b []byte
		for _, c := range []byte(text) {
			pair := [2]byte{}
			pair[low], pair[high] = c, 0
			b = append(b, pair[:]...)
		}
		return b
	}
	for text, want := range map[string]string{
		mark + "imgae = 'a'\n":                          "/c.toml:1:1: imgae: unknown key",
		mark + "image = 13\r\n":                         "/c.toml:1:9: image: 13",
		"image = 'a'\r\nmemory = 'x'\r\n":               "/c.toml:2:10: memory:",
		mark + mark + "image = 'a'\n":                   "/c.toml:1:1: ",
		"\xff\xfe" + string(utf16("image = 'a'", 1, 0)): "/c.toml:1:1: the file is UTF-16; save it as UTF-8",
		"\xfe\xff" + string(utf16("image = 'a'", 0, 1)): "/c.toml:1:1: the file is UTF-16; save it as UTF-8",
		string(utf16("image = 'a'", 1, 0)):              "/c.toml:1:1: the file is UTF-16; save it as UTF-8",
		string(utf16("image = 'a'", 0, 1)):              "/c.toml:1:1: the file is UTF-16; save it as UTF-8",
		"image = 'a'\n# f\xfcr alle\n":                  "/c.toml:2:4: the file is not UTF-8; save it as UTF-8",
		"image = 'a'\n# \ufffd\nmemory = 'x'\n":         "/c.toml:3:10: memory:",
	} {
		_, err := config.Parse([]byte(text), "/c.toml")
		require.ErrorContains(t, err, want)
		require.Equal(t, fault.Admin, fault.ClassOf(err))
		var wrong *config.Error
		require.True(t, errors.As(err, &wrong), text)
	}
	text, err := config.ReadText([]byte(mark+"x"), "f")
	require.NoError(t, err)
	require.True(t, bytes.Equal([]byte("x"), text))
}
