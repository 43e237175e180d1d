// Package config is the administrator's configuration, /etc/airlock/config.toml: its keys, defaults and
// checks. Keys that GitLab Runner has too carry GitLab Runner's names.
//
// It is strict: an unknown key, a wrong type or a value out of range is one error that names the file, line,
// column, key and remedy. It reads files and nothing else; the executor and the commands are its callers.
package config

import (
	"time"

	"github.com/airlock-ci/airlock/isolation"
)

// Config is the whole configuration, defaults filled in.
type Config struct {
	// Isolation is the level of every job, and with a policy of the jobs that no rule matches; default hypervisor:
	// who says nothing gets the stronger one.
	Isolation isolation.Level
	// Policy is [policy]; nil without it.
	Policy *Policy

	// Image is used for jobs without image:. Empty: such jobs are refused.
	Image string
	// HelperImage is the image of the helper root. Empty: the runner's own stages run in the job's image.
	HelperImage string
	// AllowedImages are patterns of package policy/imagepattern; empty, the default, allows all.
	AllowedImages []string
	// PullPolicies is pull_policy: "always", "if-not-present", "never"; the first is the default; default
	// if-not-present.
	PullPolicies []string
	// AllowedPullPolicies bound what image:pull_policy may ask for; default: PullPolicies.
	AllowedPullPolicies []string

	// Limits are memory (default 4 GiB, never 0), cpus (default 0: all of the host's), pids_limit (default 4096) and
	// scratch_size (default 20 GiB).
	Limits isolation.Limits

	// NetworkMode is "nat" (default) or "none".
	NetworkMode string
	// DNS, DNSSearch and ExtraHosts are GitLab Runner's dns, dns_search and extra_hosts.
	DNS, DNSSearch, ExtraHosts []string
	Network                    Network

	Cache      Cache
	Hypervisor Hypervisor
	Windows    Windows

	// StateDir holds what must survive a reboot (images, caches); default /var/lib/airlock, on Windows
	// %ProgramData%\Airlock\state.
	StateDir string
	// RunDir holds what must not (sockets, scratches' mounts, the journal); default /run/airlock, on Windows
	// %ProgramData%\Airlock\run.
	RunDir string
	// Group may use the driver's socket; default "gitlab-runner" if that group exists, else root only.
	Group string
	// Sockets are those of runner classes, beside the service's own.
	Sockets []Socket
	// Runtime is the OCI runtime of the process level: "crun", "runc" or "runsc" (gVisor), by name or absolute path;
	// default: crun, else runc.
	Runtime string
	// CgroupParent is the cgroup below which every sandbox has its own; default "airlock".
	CgroupParent string
	// GracefulKillTimeout is how long a cancelled stage has between SIGTERM and SIGKILL; default 10 s.
	GracefulKillTimeout time.Duration
	// OrphanTimeout is how long a job may be left without a call before it is ended, once the runner that
	// called is dead; default 1 min. While the runner lives it is thirty times as long.
	OrphanTimeout time.Duration
	// ReapInterval is the time between two passes of the reaper; default 1 min.
	ReapInterval time.Duration
	// LogLevel is zerolog's: "debug", "info", "warn", "error"; default "info". LogFormat is "json" or "text".
	LogLevel, LogFormat string
	// ListenAddress serves metrics when not empty, "127.0.0.1:9402".
	ListenAddress string
}

// Network is [network].
type Network struct {
	// Bridge is the bridge's name, 1 to 11 bytes; default "airlock0". The nftables table carries it too.
	Bridge string
	// Subnet is the IPv4 network of the sandboxes, the bridge has its first address; default 172.29.0.0/16.
	Subnet string
	// Allow are exceptions from "nothing but the internet": "10.1.2.3:443", "10.0.0.0/8"; IPv4, as the
	// sandboxes have no IPv6.
	Allow []string
	// MaxConnections is how many connections one sandbox may have open at a time; default 4096. In a minute it may open
	// twice as many.
	MaxConnections int
}

// Cache is [cache].
type Cache struct {
	// DiskLimit bounds the unpacked images, in bytes; the least recently used go first. 0: no bound; default
	// 50 GiB.
	DiskLimit int64
	// InodeLimit bounds them likewise in files, directories and links; 0: no bound; default 3,000,000, which is what ext4
	// has by default on 50 GiB.
	InodeLimit int64
	// ImageSizeLimit bounds what one image unpacks to, in bytes; default a quarter of DiskLimit, 16 GiB without one.
	// ImageInodeLimit bounds its files, directories, links and names; default a quarter of InodeLimit, 750,000 without one.
	ImageSizeLimit, ImageInodeLimit int64
	// MinFreeSpace and MinFreeInodes are what pulls leave free of the file system of StateDir, in bytes and inodes;
	// 0: nothing; -1, the default: see MinFree.
	MinFreeSpace, MinFreeInodes int64
	// Scope is "project" (default: a job finds the caches that its project's jobs of the same protection left on this
	// host) or "job" (nothing is kept).
	Scope string
	// InsecureRegistries are hosts, with port, that may be talked to by plain HTTP. They alone may be on this host.
	InsecureRegistries []string
	// PullTimeout bounds one pull; default 30 min.
	PullTimeout time.Duration
	// Scratch is how a scratch is bounded to scratch_size: "loop" (an ext4 image on a loop device; default),
	// "tmpfs" (in memory) or "directory" (not bounded at all).
	Scratch string
}

// Windows is [windows]: what sandboxes on Windows have beside their image. Other systems ignore it.
type Windows struct {
	// HelperDir is a directory of the host with MinGit and gitlab-runner.exe, which every sandbox sees, read-only.
	// Empty, the default: the runner's own stages rely on the image alone.
	HelperDir string
	// TemplateVMs lets Hyper-V containers be cloned from a machine that Windows keeps; default false.
	TemplateVMs bool
}

// Hypervisor is [hypervisor]: the virtual machines of jobs at the hypervisor level. Their size is that of Limits, memory
// rounded up to whole 2 MiB and cpus to whole ones.
type Hypervisor struct {
	// QEMU is the emulator, by name or absolute path; default qemu-system-x86_64.
	QEMU string
	// Kernel is the guests' kernel: "auto" (default: the newest of the distribution's) or the absolute path of one.
	Kernel string
	// KernelDir is where kernels (boot/vmlinuz-VERSION) and their modules (lib/modules/VERSION) are looked for;
	// default "/".
	KernelDir string
	// Templates lets machines be cloned instead of booted; default true.
	Templates bool
	// Pool is how many clones of a template wait for a job; default 1.
	Pool int
	// AllowEmulation lets a host without working hardware virtualisation interpret its guests, several times slower;
	// default false: such a host refuses the jobs.
	AllowEmulation bool
}
