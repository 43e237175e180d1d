package config

import (
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// key is one key of the file: its dotted name and what sets it.
type key struct {
	name string
	set  func(c *Config, r *reading)
}

// keys returns all keys, in the order of the example. Ranges stand here and nowhere else.
func keys() []key {
	return []key{
		{"isolation", func(c *Config, r *reading) { r.level(&c.Isolation) }},
		{"image", func(c *Config, r *reading) { r.text(&c.Image, isImage) }},
		{"helper_image", func(c *Config, r *reading) { r.text(&c.HelperImage, isImage) }},
		{"allowed_images", func(c *Config, r *reading) { r.list(&c.AllowedImages, isImagePattern) }},
		{"pull_policy", func(c *Config, r *reading) { r.oneOrMore(&c.PullPolicies, isPullPolicy) }},
		{"allowed_pull_policies", func(c *Config, r *reading) { r.oneOrMore(&c.AllowedPullPolicies, isPullPolicy) }},

		{"memory", func(c *Config, r *reading) { r.room(&c.Limits.Memory) }},
		{"cpus", func(c *Config, r *reading) { r.cores(&c.Limits.CPUs) }},
		{"pids_limit", func(c *Config, r *reading) { r.processes(&c.Limits.PIDs) }},
		{"scratch_size", func(c *Config, r *reading) { r.room(&c.Limits.Scratch) }},

		{"network_mode", func(c *Config, r *reading) { r.networkMode(&c.NetworkMode) }},
		{"dns", func(c *Config, r *reading) { r.list(&c.DNS, isServer) }},
		{"dns_search", func(c *Config, r *reading) { r.list(&c.DNSSearch, isDomain) }},
		{"extra_hosts", func(c *Config, r *reading) { r.list(&c.ExtraHosts, isExtraHost) }},

		{"state_dir", func(c *Config, r *reading) { r.text(&c.StateDir, isDirectory) }},
		{"run_dir", func(c *Config, r *reading) { r.text(&c.RunDir, isDirectory) }},
		{"group", func(c *Config, r *reading) { r.text(&c.Group, isGroup) }},
		{"runtime", func(c *Config, r *reading) { r.text(&c.Runtime, isRuntime) }},
		{"cgroup_parent", func(c *Config, r *reading) { r.text(&c.CgroupParent, isCgroup) }},
		{"graceful_kill_timeout", func(c *Config, r *reading) { r.duration(&c.GracefulKillTimeout, time.Second, time.Hour) }},
		{"orphan_timeout", func(c *Config, r *reading) { r.duration(&c.OrphanTimeout, time.Second, 24*time.Hour) }},
		{"reap_interval", func(c *Config, r *reading) { r.duration(&c.ReapInterval, time.Second, 24*time.Hour) }},
		{"log_level", func(c *Config, r *reading) { r.choice(&c.LogLevel, "debug", "info", "warn", "error") }},
		{"log_format", func(c *Config, r *reading) { r.choice(&c.LogFormat, "json", "text") }},
		{"listen_address", func(c *Config, r *reading) { r.text(&c.ListenAddress, isListenAddress) }},

		{"network.bridge", func(c *Config, r *reading) { r.text(&c.Network.Bridge, isBridge) }},
		{"network.subnet", func(c *Config, r *reading) { r.text(&c.Network.Subnet, isSubnet) }},
		{"network.allow", func(c *Config, r *reading) { r.list(&c.Network.Allow, isDestination) }},
		{"network.max_connections", func(c *Config, r *reading) { r.count(&c.Network.MaxConnections, 16, 1<<20) }},

		{"cache.disk_limit", func(c *Config, r *reading) { r.size(&c.Cache.DiskLimit, 0, 1<<60) }},
		{"cache.inode_limit", func(c *Config, r *reading) { r.integer(&c.Cache.InodeLimit, 0, 1<<40) }},
		{"cache.image_size_limit", func(c *Config, r *reading) {
			r.autoOr(&c.Cache.ImageSizeLimit, func(dst *int64) { r.size(dst, 1<<20, 1<<60) })
		}},
		{"cache.image_inode_limit", func(c *Config, r *reading) {
			r.autoOr(&c.Cache.ImageInodeLimit, func(dst *int64) { r.integer(dst, 1, 1<<40) })
		}},
		{"cache.min_free_space", func(c *Config, r *reading) {
			r.autoOr(&c.Cache.MinFreeSpace, func(dst *int64) { r.size(dst, 0, 1<<60) })
		}},
		{"cache.min_free_inodes", func(c *Config, r *reading) {
			r.autoOr(&c.Cache.MinFreeInodes, func(dst *int64) { r.integer(dst, 0, 1<<40) })
		}},
		{"cache.scope", func(c *Config, r *reading) { r.choice(&c.Cache.Scope, "project", "job") }},
		{"cache.insecure_registries", func(c *Config, r *reading) { r.list(&c.Cache.InsecureRegistries, isRegistry) }},
		{"cache.pull_timeout", func(c *Config, r *reading) { r.duration(&c.Cache.PullTimeout, time.Second, 24*time.Hour) }},
		{"cache.scratch", func(c *Config, r *reading) { r.choice(&c.Cache.Scratch, "loop", "tmpfs", "directory") }},

		{"hypervisor.qemu", func(c *Config, r *reading) { r.text(&c.Hypervisor.QEMU, isProgram) }},
		{"hypervisor.kernel", func(c *Config, r *reading) { r.text(&c.Hypervisor.Kernel, isKernel) }},
		{"hypervisor.kernel_dir", func(c *Config, r *reading) { r.text(&c.Hypervisor.KernelDir, isAbsolute) }},
		{"hypervisor.templates", func(c *Config, r *reading) { r.truth(&c.Hypervisor.Templates) }},
		{"hypervisor.pool", func(c *Config, r *reading) { r.count(&c.Hypervisor.Pool, 0, 100) }},
		{"hypervisor.allow_emulation", func(c *Config, r *reading) { r.truth(&c.Hypervisor.AllowEmulation) }},

		{"windows.helper_dir", func(c *Config, r *reading) { r.text(&c.Windows.HelperDir, isAbsoluteOrEmpty) }},
		{"windows.template_vms", func(c *Config, r *reading) { r.truth(&c.Windows.TemplateVMs) }},
	}
}

// What follows is read at the top level and in rules.

func (r *reading) level(dst *isolation.Level) {
	var name string
	r.choiceBeside(dockerLevels, &name, isolation.ProcessLevel.String(), isolation.HypervisorLevel.String())
	if level, err := isolation.ParseLevel(name); err == nil {
		*dst = level
	}
}

func (r *reading) networkMode(dst *string) { r.choiceBeside(dockerNetworks, dst, "nat", "none") }

// room is of memory or of a scratch.
func (r *reading) room(dst *int64) { r.size(dst, 16<<20, 1<<50) }

func (r *reading) processes(dst *int64) { r.integer(dst, 16, 4<<20) }

func (r *reading) count(dst *int, least, most int64) {
	n := int64(*dst)
	r.integer(&n, least, most)
	*dst = int(n)
}

// cores takes GitLab Runner's form, a string, and a plain number, which it is mistaken for.
func (r *reading) cores(dst *float64) {
	const least, most = 0.01, 1024
	cpus, ok := r.number()
	if ok && (cpus == 0 || cpus >= least && cpus <= most) {
		*dst = cpus
		return
	}
	r.wrong("%s is not a number of cores", `write a number from 0.01 to 1024, as in cpus = "1.5", or "0" for all cores`)
}
