package layout

// Capabilities are what the agent and its stages have. They are Docker's defaults less three, which leaves what Podman grants:
//   - NET_RAW forges packets on the bridge; ping works without it (see Sysctls);
//   - MKNOD makes device nodes, which the device cgroup would not let anyone open; builds that need nodes in
//     an archive use fakeroot, and overlay whiteouts need no capability since Linux 5.8;
//   - AUDIT_WRITE writes to the host's audit log.
//
// SYS_CHROOT, SETUID, SETGID and KILL are also what the agent itself needs.
var Capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// Sysctls belong to the sandbox's network namespace. They are Docker's: ping without NET_RAW, and ports below
// 1024 for every user.
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
