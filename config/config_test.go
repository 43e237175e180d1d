package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(text), "test.toml")
	require.NoError(t, err)
	return c
}

func TestEmptyFileFailsClosed(t *testing.T) {
	c := parse(t, "")
	require.Equal(t, config.Default(), c)
	require.Equal(t, isolation.HypervisorLevel, c.Isolation)
	require.Positive(t, c.Limits.Memory)
	require.Positive(t, c.Limits.PIDs)
	require.Positive(t, c.Limits.Scratch)
}

func TestEveryKey(t *testing.T) {
	c := parse(t, `
isolation = "process"
image = "debian:13"
helper_image = "oci:/srv/helper"
allowed_images = ["registry.example.com/**", "!**/*:latest"]
pull_policy = ["always", "never"]
allowed_pull_policies = ["never", "always", "if-not-present"]
memory = "1.5G"
cpus = "1.5"
pids_limit = 512
scratch_size = "10gb"
network_mode = "none"
dns = ["192.0.2.53"]
dns_search = ["example.com"]
extra_hosts = ["registry.local:192.0.2.10", "six.local:[2001:db8::1]"]
state_dir = "/srv/airlock"
run_dir = "/run/airlock-2"
group = "ci"
runtime = "/usr/local/bin/crun"
cgroup_parent = "system.slice/airlock.service/jobs"
graceful_kill_timeout = 30
orphan_timeout = "5m"
reap_interval = "2m"
log_level = "debug"
log_format = "text"
listen_address = ":9402"
[network]
bridge = "al1"
subnet = "10.9.0.0/20"
allow = ["10.1.2.3:443", "10.1.2.3", "10.0.0.0/8", "10.0.0.0/8:53"]
max_connections = 500
[cache]
disk_limit = "0"
inode_limit = 1000000
image_size_limit = "3g"
image_inode_limit = 200000
min_free_space = "5g"
min_free_inodes = 0
scope = "job"
insecure_registries = ["registry.local:5000", "192.0.2.1"]
pull_timeout = "90s"
scratch = "tmpfs"
[hypervisor]
qemu = "/opt/qemu/bin/qemu-system-x86_64"
kernel = "/boot/vmlinuz-6.1.0"
kernel_dir = "/srv/kernels"
templates = false
pool = 3
allow_emulation = true
[windows]
helper_dir = "/srv/helper"
template_vms = true
`)
	require.Equal(t, &config.Config{
		Isolation: isolation.ProcessLevel, Image: "debian:13", HelperImage: "oci:/srv/helper",
		AllowedImages: []string{"registry.example.com/**", "!**/*:latest"},
		PullPolicies:  []string{"always", "never"}, AllowedPullPolicies: []string{"never", "always", "if-not-present"},
		Limits:      isolation.Limits{Memory: 3 << 29, CPUs: 1.5, PIDs: 512, Scratch: 10 << 30},
		NetworkMode: "none", DNS: []string{"192.0.2.53"}, DNSSearch: []string{"example.com"},
		ExtraHosts: []string{"registry.local:192.0.2.10", "six.local:[2001:db8::1]"},
		Network: config.Network{
			Bridge: "al1", Subnet: "10.9.0.0/20", Allow: []string{"10.1.2.3:443", "10.1.2.3", "10.0.0.0/8", "10.0.0.0/8:53"},
			MaxConnections: 500,
		},
		Cache: config.Cache{
			InodeLimit: 1_000_000, ImageSizeLimit: 3 << 30, ImageInodeLimit: 200_000, MinFreeSpace: 5 << 30,
			Scope: "job", InsecureRegistries: []string{"registry.local:5000", "192.0.2.1"},
			PullTimeout: 90 * time.Second, Scratch: "tmpfs",
		},
		Hypervisor: config.Hypervisor{
			QEMU: "/opt/qemu/bin/qemu-system-x86_64", Kernel: "/boot/vmlinuz-6.1.0", KernelDir: "/srv/kernels", Pool: 3, AllowEmulation: true,
		},
		Windows:  config.Windows{HelperDir: "/srv/helper", TemplateVMs: true},
		StateDir: "/srv/airlock", RunDir: "/run/airlock-2", Group: "ci", Runtime: "/usr/local/bin/crun",
		CgroupParent: "system.slice/airlock.service/jobs", GracefulKillTimeout: 30 * time.Second, OrphanTimeout: 5 * time.Minute,
		ReapInterval: 2 * time.Minute, LogLevel: "debug", LogFormat: "text", ListenAddress: ":9402",
	}, c)
}

func TestFormsOfOneValue(t *testing.T) {
	for text, want := range map[string]float64{`"2"`: 2, `2`: 2, `0.5`: 0.5, `"0"`: 0} {
		require.InDelta(t, want, parse(t, "cpus = "+text).Limits.CPUs, 0, text)
	}
	for text, want := range map[string]int64{`"16m"`: 16 << 20, `"16777216"`: 16 << 20, `"0.5G"`: 1 << 29, `"32768kb"`: 32 << 20, `"1T"`: 1 << 40} {
		require.Equal(t, want, parse(t, "memory = "+text).Limits.Memory, text)
	}
	c := parse(t, `pull_policy = "always"`)
	require.Equal(t, []string{"always"}, c.PullPolicies)
	require.Equal(t, []string{"always"}, c.AllowedPullPolicies, "what pull_policy says may be asked for")
	require.Equal(t, "al1", parse(t, `network = { bridge = "al1" }`).Network.Bridge)
	require.Equal(t, "al1", parse(t, `network.bridge = "al1"`).Network.Bridge)
}

// uncomment takes the defaults of the example out of their comments.
func uncomment(example string) string {
	return regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(example, "$1")
}

func TestExample(t *testing.T) {
	require.Equal(t, config.Default(), parse(t, config.Example))

	want := config.Default()
	want.Group = "gitlab-runner" // by default it depends on the host
	want.AllowedImages, want.DNS, want.DNSSearch, want.ExtraHosts = []string{}, []string{}, []string{}, []string{}
	want.Network.Allow, want.Cache.InsecureRegistries = []string{}, []string{}
	require.Equal(t, want, parse(t, uncomment(config.Example)))
	for _, key := range config.KeyNames() {
		_, name, found := strings.Cut(key, ".")
		if !found {
			name = key
		}
		require.Regexp(t, `(?m)^#`+name+` = `, config.Example)
	}
}

// TestProblems writes one bad file per case. In wants, "L:C " is the position.
// One image may have a quarter of what all have, unless the administrator says otherwise.
func TestImageLimitsFollowTheLimitsOfAll(t *testing.T) {
	require.EqualValues(t, 50<<30/4, config.Default().Cache.ImageSizeLimit)
	require.EqualValues(t, 750_000, config.Default().Cache.ImageInodeLimit)
	for text, want := range map[string]config.Cache{
		"disk_limit = '1g'\ninode_limit = 1000":             {ImageSizeLimit: 256 << 20, ImageInodeLimit: 250},
		"disk_limit = '1g'\nimage_size_limit = 'auto'":      {ImageSizeLimit: 256 << 20, ImageInodeLimit: 750_000},
		"image_size_limit = '1g'\ndisk_limit = '1g'":        {ImageSizeLimit: 1 << 30, ImageInodeLimit: 750_000},
		"disk_limit = '0'\ninode_limit = 0":                 {ImageSizeLimit: 16 << 30, ImageInodeLimit: 750_000},
		"disk_limit = '0'\nimage_size_limit = '1t'":         {ImageSizeLimit: 1 << 40, ImageInodeLimit: 750_000},
		"inode_limit = 0\nimage_inode_limit = 5000000":      {ImageSizeLimit: 50 << 30 / 4, ImageInodeLimit: 5_000_000},
		"min_free_space = 'auto'\nmin_free_inodes = 'auto'": {ImageSizeLimit: 50 << 30 / 4, ImageInodeLimit: 750_000},
	} {
		c, err := config.Parse([]byte("[cache]\n"+text+"\n"), "config.toml")
		require.NoError(t, err, text)
		require.Equal(t, want.ImageSizeLimit, c.Cache.ImageSizeLimit, text)
		require.Equal(t, want.ImageInodeLimit, c.Cache.ImageInodeLimit, text)
		require.EqualValues(t, -1, c.Cache.MinFreeSpace, text)
	}
}

func TestWhatStaysFreeFollowsTheFileSystem(t *testing.T) {
	for text, want := range map[string][2]int64{
		"": {2 << 30, 50_000},
		"min_free_space = '0'\nmin_free_inodes = 0":   {0, 0},
		"min_free_space = '9g'\nmin_free_inodes = 70": {9 << 30, 70},
	} {
		c, err := config.Parse([]byte("[cache]\n"+text+"\n"), "config.toml")
		require.NoError(t, err)
		bytes, inodes := c.Cache.MinFree(1<<40, 60_000_000)
		require.Equal(t, want, [2]int64{bytes, inodes}, text)
	}
	bytes, inodes := config.Default().Cache.MinFree(20<<30, 100_000)
	require.Equal(t, [2]int64{1 << 30, 5000}, [2]int64{bytes, inodes})
	c, err := config.Parse([]byte("[cache]\nmin_free_inodes = 70\n"), "config.toml")
	require.NoError(t, err)
	_, inodes = c.Cache.MinFree(20<<30, 0)
	require.Zero(t, inodes, "btrfs makes them as they are needed")
}

func TestProblems(t *testing.T) {
	cases := []struct {
		name, text string
		wants      []string
	}{
		{"syntax", "image = debian:13\n", []string{`1:9: `}},
		{"open string", "isolation = \"process\nimage = 'x'\n", []string{`1:21: `}},
		{"key twice", "image = 'a'\nimage = 'b'\n", []string{`2:1: image: key image is already defined`}},
		{"unknown key", "\n  memroy = '2g'\n", []string{`2:3: memroy: unknown key; did you mean memory?`}},
		{"unknown key, nothing near", "xyzzy = 1\n", []string{`1:1: xyzzy: unknown key; remove it; the known keys`}},
		{"dash for underscore", "helper-image = 'x'\n", []string{`1:1: helper-image: unknown key; did you mean helper_image?`}},
		{"key of a table at the top", "bridge = 'x'\n", []string{`1:1: bridge: unknown key; did you mean bridge in [network]?`}},
		{"key of the top in a table", "[cache]\nmemory = '2g'\n", []string{`2:1: cache.memory: unknown key; did you mean memory?`}},
		{"unknown key in a table", "[cache]\ndisk_limt = '2g'\n", []string{`2:1: cache.disk_limt: unknown key; did you mean disk_limit in [cache]?`}},
		{"unknown key in an inline table", "network = { bridge = 'x', brigde = 'y' }\n", []string{`1:27: network.brigde: unknown key; did you mean bridge in [network]?`}},
		{"quoted key with a dot", "\"network.bridge\" = 'x'\n", []string{`1:1: "network.bridge": unknown key; `}},
		{"unknown table, once", "[netwrok]\nbridge = 'x'\nsubnet = 'y'\n", []string{`1:2: netwrok: unknown table; did you mean [network]?`}},
		{"unknown table, nothing near", "[x]\n", []string{`1:2: x: unknown table; remove it; the tables are [network], [cache], [hypervisor], [windows]`}},
		{"words for truth", "[hypervisor]\nallow_emulation = \"yes\"\n", []string{`2:19: hypervisor.allow_emulation: "yes" is neither true nor false; write true or false`}},
		{"hypervisor's paths", "[hypervisor]\nqemu = \"./qemu\"\nkernel = \"newest\"\nkernel_dir = \"srv\"\n", []string{
			`2:8: hypervisor.qemu: "./qemu" is not a program; `, `3:10: hypervisor.kernel: "newest" is not a kernel; write "auto"`,
			`4:14: hypervisor.kernel_dir: "srv" is not an absolute path`,
		}},
		{"the runner's file", "concurrent = 4\n[[runners]]\nname = 'x'\n[runners.docker]\nimage = 'y'\n", []string{
			`2:3: runners: unknown table: this looks like GitLab Runner's own config.toml; keep [[runners]] in that file`,
		}},
		{"array of tables", "[[network]]\nbridge = 'x'\n", []string{`1:3: network: is a single table; write [network]`}},
		{"table as value", "cache = 5\n", []string{`1:1: cache: is a table; write [cache]`}},
		{"table for value", "[image]\nname = 'x'\n", []string{`1:2: image: unknown table`}},
		{"isolation", "isolation = 'vm'\n", []string{`1:13: isolation: "vm" is not a choice; use "process" or "hypervisor"`}},
		{"isolation of another type", "isolation = true\n", []string{`1:13: isolation: true is not a choice`}},
		{"image with a space", "image = 'debian 13'\n", []string{`1:9: image: "debian 13" is not an image`}},
		{"image as number", "image = 13\n", []string{`1:9: image: 13 is not a string; put it in quotes`}},
		{"glob", "allowed_images = ['a/**',\n  'b/[', '!', 5]\n", []string{
			`2:3: allowed_images: "b/[" is not a pattern; close every [ and {`, `2:10: allowed_images: "!" is not a pattern`, `2:15: allowed_images: 5 is not a string`,
		}},
		{"what no pattern can mean", "allowed_images = ['a.b/**', '!**:latest', 'foo**',\n  'Debian', 'a.b/', 'https://a.b/c', '!!x', 'a b', '']\n", []string{
			`1:29: allowed_images: "!**:latest" has ** in "**:latest", where it is no more than * and stays within a path element; write "!**/*:latest"`,
			`1:43: allowed_images: "foo**" has ** in "foo**"`, `2:3: allowed_images: "Debian" can match no image: their names are in lower case`,
			`2:13: allowed_images: "a.b/" can match no image: an element of its path is empty`, `2:21: allowed_images: "https://a.b/c" can match no image: their names have no scheme`,
			`2:38: allowed_images: "!!x" begins with more than one "!"`, `2:45: allowed_images: "a b" can match no image`, `2:52: allowed_images: "" is not a pattern`,
		}},
		{"list as string", "dns = '192.0.2.1'\n", []string{`1:7: dns: "192.0.2.1" is not a list; write a list of strings, as in dns = ["...", "..."]`}},
		{"pull policy", "pull_policy = 'sometimes'\n", []string{`1:15: pull_policy: "sometimes" is not a pull policy; use "always", "if-not-present" or "never"`}},
		{"pull policy in a list", "pull_policy = ['always', 'Never']\n", []string{`1:26: pull_policy: "Never" is not a pull policy`}},
		{"no pull policy", "pull_policy = []\n", []string{`1:1: pull_policy: the list is empty; name at least one`}},
		{"default not allowed", "pull_policy = 'always'\nallowed_pull_policies = ['never']\n", []string{`2:1: allowed_pull_policies: it does not contain "always", which pull_policy uses; add it here`}},
		{"built-in default not allowed", "allowed_pull_policies = 'never'\n", []string{`1:25: allowed_pull_policies: it does not contain "if-not-present"`}},
		{"size", "memory = '2x'\n", []string{`1:10: memory: "2x" is not a size; write a string with a number and b, k, m, g or t, as in "2g"`}},
		{"size as number", "memory = 2\n", []string{`1:10: memory: 2 is not a size`}},
		{"size zero", "memory = '0'\n", []string{`1:10: memory: "0" is out of range; write a size from 16m to 1024t`}},
		{"size negative", "scratch_size = '-1g'\n", []string{`1:16: scratch_size: "-1g" is not a size`}},
		{"size huge", "scratch_size = '999999999999999t'\n", []string{`1:16: scratch_size: "999999999999999t" is out of range`}},
		{"cpus", "cpus = 'many'\n", []string{`1:8: cpus: "many" is not a number of cores; write a number from 0.01 to 1024`}},
		{"cpus nan", "cpus = nan\n", []string{`1:8: cpus: NaN is not a number of cores`}},
		{"cpus negative", "cpus = -1\n", []string{`1:8: cpus: -1 is not a number of cores`}},
		{"connections", "[network]\nmax_connections = 0\n", []string{
			`2:19: network.max_connections: 0 is out of range; write a whole number from 16 to 1048576, without quotes`,
		}},
		{"pids", "pids_limit = -1\n", []string{`1:14: pids_limit: -1 is out of range; write a whole number from 16 to 4194304`}},
		{"pids as string", "pids_limit = '100'\n", []string{`1:14: pids_limit: "100" is out of range; write a whole number from 16 to 4194304, without quotes`}},
		{"network mode", "network_mode = 'host'\n", []string{`1:16: network_mode: "host" is not a choice; use "nat" or "none"`}},
		{"dns name", "dns = ['dns.example.com']\n", []string{`1:8: dns: "dns.example.com" is not an IPv4 address`}},
		{"dns loopback", "dns = ['127.0.0.53']\n", []string{`1:8: dns: "127.0.0.53" is not this host's address within a sandbox`}},
		{"search domain", "dns_search = ['a b']\n", []string{`1:15: dns_search: "a b" is not a domain name`}},
		{"extra host", "extra_hosts = ['registry.local']\n", []string{`1:16: extra_hosts: "registry.local" is not a host and its address; write "name:address"`}},
		{"relative path", "state_dir = 'var/lib'\n", []string{`1:13: state_dir: "var/lib" is not an absolute path; begin it with a /`}},
		{"crooked path", "run_dir = '/run/../etc'\n", []string{`1:11: run_dir: "/run/../etc" is not a plain path; write "/etc"`}},
		{"root directory", "run_dir = '/'\n", []string{`1:11: run_dir: "/" is the root directory`}},
		{"group", "group = 'a b'\n", []string{`1:9: group: "a b" is not a group's name`}},
		{"runtime", "runtime = 'docker'\n", []string{`1:11: runtime: "docker" is not a runtime; use "crun", "runc", "runsc" (gVisor)`}},
		{"cgroup", "cgroup_parent = '../x'\n", []string{`1:17: cgroup_parent: "../x" is not a cgroup below the root`}},
		{"cgroup with slash", "cgroup_parent = '/airlock'\n", []string{`1:17: cgroup_parent: "/airlock" is not a cgroup below the root`}},
		{"duration", "reap_interval = '5 minutes'\n", []string{`1:17: reap_interval: "5 minutes" is not a duration; write a number with a unit, as in "90s"`}},
		{"duration without unit", "reap_interval = '60'\n", []string{`1:17: reap_interval: "60" is not a duration`}},
		{"duration zero", "graceful_kill_timeout = 0\n", []string{`1:25: graceful_kill_timeout: 0 is out of range; write a duration from 1s to 1h0m0s`}},
		{"duration huge", "reap_interval = 9223372036854775807\n", []string{`1:17: reap_interval: 9223372036854775807 is out of range`}},
		{"log level", "log_level = 'trace'\n", []string{`1:13: log_level: "trace" is not a choice; use "debug", "info", "warn" or "error"`}},
		{"listen address", "listen_address = '9402'\n", []string{`1:18: listen_address: "9402" is not an address to listen on; write address and port`}},
		{"bridge", "[network]\nbridge = 'a-very-long-name'\n", []string{`2:10: network.bridge: "a-very-long-name" is not a bridge's name`}},
		{"subnet", "[network]\nsubnet = '10.0.0.0'\n", []string{`2:10: network.subnet: "10.0.0.0" is not an IPv4 network; write one in CIDR form`}},
		{"subnet with host bits", "[network]\nsubnet = '10.0.0.1/24'\n", []string{`2:10: network.subnet: "10.0.0.1/24" has host bits set; write "10.0.0.0/24"`}},
		{"subnet too narrow", "[network]\nsubnet = '10.0.0.0/30'\n", []string{`2:10: network.subnet: "10.0.0.0/30" is too wide or too narrow`}},
		{"allow", "[network]\nallow = ['10.0.0.0/8', 'db.local:5432', '10.0.0.1/8', '[fd00::1]:53', '10.0.0.1:0']\n", []string{
			`2:24: network.allow: "db.local:5432" is not a destination`, `2:41: network.allow: "10.0.0.1/8" has host bits set; write "10.0.0.0/8"`,
			`2:55: network.allow: "[fd00::1]:53" is not a destination`, `2:71: network.allow: "10.0.0.1:0" is not a destination`,
		}},
		{"registry with scheme", "[cache]\ninsecure_registries = ['http://r:5000']\n", []string{`2:24: cache.insecure_registries: "http://r:5000" is not a registry's host`}},
		{"inode limit", "[cache]\ninode_limit = '3m'\n", []string{`2:15: cache.inode_limit: "3m" is out of range; write a whole number from 0 to`}},
		{"image size", "[cache]\nimage_size_limit = 'much'\nimage_inode_limit = 'auto '\nmin_free_space = 5\nmin_free_inodes = -1\n", []string{
			`2:20: cache.image_size_limit: "much" is not a size`, `3:21: cache.image_inode_limit: "auto " is out of range`,
			`4:18: cache.min_free_space: 5 is not a size`, `5:19: cache.min_free_inodes: -1 is out of range`,
		}},
		{"one image beyond all", "[cache]\ndisk_limit = '1g'\nimage_size_limit = '2g'\nimage_inode_limit = 4000000\n", []string{
			`3:20: cache.image_size_limit: one image may not take more than all images, which disk_limit bounds; write less than disk_limit, or raise that`,
			`4:21: cache.image_inode_limit: one image may not take more than all images, which inode_limit bounds`,
		}},
		{"scratch", "[cache]\nscratch = 'zfs'\n", []string{`2:11: cache.scratch: "zfs" is not a choice; use "loop", "tmpfs" or "directory"`}},
		{"several, in the file's order", "[cache]\nscope = 'x'\n[network]\nbridge = ''\nfoo = 1\n", []string{
			`2:9: cache.scope: `, `4:10: network.bridge: "" is not a bridge's name`, `5:1: network.foo: unknown key`,
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse([]byte(tc.text), "/etc/airlock/config.toml")
			require.Error(t, err)
			require.Equal(t, fault.Admin, fault.ClassOf(err))
			lines := strings.Split(err.Error(), "\n")
			require.Len(t, lines, len(tc.wants), err.Error())
			for i, want := range tc.wants {
				require.True(t, strings.HasPrefix(lines[i], "/etc/airlock/config.toml:"+want), "got  %s\nwant %s", lines[i], want)
				require.Contains(t, lines[i], "; ", "a remedy")
			}
		})
	}
}

func TestManyProblemsAreBounded(t *testing.T) {
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "unknown_%d = %q\n", i, strings.Repeat("x", 1000))
	}
	_, err := config.Parse([]byte(text.String()), "f")
	var all *config.Error
	require.ErrorAs(t, err, &all)
	require.Len(t, all.Problems, 50)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 21)
	require.Equal(t, "f: and 30 more", lines[20])

	_, err = config.Parse([]byte("image = '"+strings.Repeat("x y", 1000)+"'"), "f")
	require.Less(t, len(err.Error()), 300)
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	_, err := config.Load(path)
	require.ErrorContains(t, err, path)
	require.ErrorIs(t, err, os.ErrNotExist, "a file that was asked for must be there")
	require.Equal(t, fault.Admin, fault.ClassOf(err))

	require.NoError(t, os.WriteFile(path, []byte(`isolation = "process"`), 0o644))
	c, err := config.Load(path)
	require.NoError(t, err)
	require.Equal(t, isolation.ProcessLevel, c.Isolation)

	_, err = config.Parse(make([]byte, 2<<20), path)
	require.ErrorContains(t, err, path)
	require.Equal(t, fault.Admin, fault.ClassOf(err))
}

// FuzzParse holds that no file crashes the parser, that every error names a place in the file, and that what is
// accepted is safe to use.
func FuzzParse(f *testing.F) {
	f.Add([]byte(config.Example))
	f.Add([]byte(uncomment(config.Example)))
	f.Add([]byte("[policy]\ndefault = 'process'\n[policy.id_token]\nissuer = 'https://g'\naudience = 'a'\n[[policy.rules]]\nname = 'x'\nwhen = \"\"\"git.protected \\\n && true\"\"\"\n[policy.rules.limits]\nmemory = '1g'\n"))
	f.Add([]byte("[[network]]\n[network.x]\na.b.c = {d = [1, {e = 2}]}\n"))
	f.Add([]byte("cache = { scope = 'x', pull_timeout = 1979-05-27 }\n\"\".\"network\" = []"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, "f")
		if err == nil {
			require.Contains(t, []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel}, c.Isolation)
			require.Positive(t, c.Limits.Memory)
			require.Positive(t, c.Limits.PIDs)
			require.Positive(t, c.Limits.Scratch)
			require.GreaterOrEqual(t, c.Limits.CPUs, 0.0)
			require.True(t, filepath.IsAbs(c.StateDir) && filepath.IsAbs(c.RunDir))
			require.Subset(t, c.AllowedPullPolicies, c.PullPolicies)
			require.NotEmpty(t, c.PullPolicies)
			require.True(t, c.Policy == nil || c.Policy.Policy != nil)
			return
		}
		require.Equal(t, fault.Admin, fault.ClassOf(err))
		var all *config.Error
		if !errors.As(err, &all) {
			require.Greater(t, len(data), 1<<20)
			return
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, p := range all.Problems {
			require.True(t, p.Line >= 1 && p.Line <= lines && p.Column >= 1 && p.Column <= len(data)+1, "%+v", p)
			require.NotEmpty(t, p.Message)
			require.NotEmpty(t, p.Remedy)
		}
	})
}
