package layout

import "golang.org/x/sys/unix"

// Capabilities are what the agent and its stages have. They are Docker's defaults less two:
//   - MKNOD makes device nodes, which the device cgroup would not let anyone open; builds that need nodes in
//     an archive use fakeroot, and overlay whiteouts need no capability since Linux 5.8;
//   - AUDIT_WRITE writes to the host's audit log.
//
// SYS_CHROOT, SETUID, SETGID and KILL are also what the agent itself needs. NET_RAW is for ping: see UserCapabilities. What a
// job can do with it is narrowed by isolation/seccomp, and what it can forge by the rules of isolation/network.
var Capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// UserCapabilities are those that the author's stages have under every user, by number; root has all of Capabilities. There
// are three kinds of ping: with the ICMP sockets that Sysctls give to every user; with raw ones alone, which need NET_RAW, as
// busybox's; and with a file capability, as Debian's, which gains nothing in a sandbox (no_new_privs), but without NET_RAW
// in the bounding set the kernel would not even execute the program.
var UserCapabilities = []uintptr{unix.CAP_NET_RAW}

// RunnersCapabilities are those that the runner's own stages have under every user. The cache directory is that of all jobs
// of a project, whose images have different users, and the archives that one leaves there, for itself alone as gitlab-runner
// makes them, must be read and replaced by the others. The Docker executor runs these stages as root for that.
var RunnersCapabilities = []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER}

// Rlimit is a limit of each process: setrlimit(2).
type Rlimit struct {
	// Type is the limit's name in the OCI runtime specification, "RLIMIT_CORE".
	Type string
	// Soft is what a process begins with, Hard what it may raise that to.
	Soft, Hard uint64
}

// Unlimited is RLIM_INFINITY.
const Unlimited = ^uint64(0)

// Rlimits are the limits of each process that do not come with the system. The hard ones are Docker's, so that `ulimit -c
// unlimited` and the like, which build scripts have, do not fail; how many processes there are the sandbox's own limit bounds.
//   - Open files begin with more than systemd's 1024, because parallel builds need them, and with less than all, because
//     programs that close every descriptor they could have take minutes for a million.
//   - Core files begin with 1 byte, which no core file fits in. With 0 the kernel would still start the program that the
//     host's core_pattern may name, for each crash of a job, as root and outside of the sandbox: core(5), and do_coredump
//     in Linux's fs/coredump.c.
var Rlimits = []Rlimit{
	{"RLIMIT_NOFILE", 65536, 1048576},
	{"RLIMIT_CORE", 1, Unlimited},
	{"RLIMIT_NPROC", Unlimited, Unlimited},
}

// Sysctls belong to the sandbox's network namespace. They are Docker's: ICMP sockets, and ports below 1024, for every user.
var Sysctls = map[string]string{
	"net.ipv4.ping_group_range":           "0 2147483647",
	"net.ipv4.ip_unprivileged_port_start": "0",
}

// MaskedPaths are Docker's: they tell about the host, or change it. /proc/sys and its like are read-only.
var MaskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// ReadonlyPaths are Docker's. Not among them is the tmpfs that crun mounts version 1 cgroups in and leaves writable:
// it holds nothing but mount points, and naming it here makes crun 1.8 leave the cgroups themselves writable.
var ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
