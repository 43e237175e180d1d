package oci

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// profile is what every sandbox is confined to, made once.
type profile struct {
	capabilities []string
	seccomp      *specs.LinuxSeccomp
	rlimits      []specs.POSIXRlimit
}

// capabilities are Docker's defaults less three, which leaves what Podman grants:
//   - NET_RAW forges packets on the bridge; ping works without it (see sysctls);
//   - MKNOD makes device nodes, which the device cgroup would not let anyone open; builds that need nodes in
//     an archive use fakeroot, and overlay whiteouts need no capability since Linux 5.8;
//   - AUDIT_WRITE writes to the host's audit log.
//
// SYS_CHROOT, SETUID, SETGID and KILL are also what the agent itself needs.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// newProfile reads Docker's default seccomp profile for these capabilities and this kernel.
func newProfile() (profile, error) {
	like := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
	filter, err := seccomp.GetDefaultProfile(like)
	if err != nil {
		return profile{}, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	limits, err := rlimits()
	if err != nil {
		return profile{}, err
	}
	return profile{capabilities: capabilities, seccomp: filter, rlimits: limits}, nil
}

// rlimits are the limits of each process: the open files that systemd grants services at most, with more than its
// 1024 to begin with, because parallel builds need them; no core files. Our own limit cannot be exceeded.
func rlimits() ([]specs.POSIXRlimit, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return nil, fmt.Errorf("reading the limit of open files: %w", err)
	}
	return []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: min(65536, own.Max), Hard: min(524288, own.Max)},
		{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
	}, nil
}

// sysctls belong to the sandbox's network namespace. They are Docker's: ping without NET_RAW, and ports below
// 1024 for every user.
var sysctls = map[string]string{
	"net.ipv4.ping_group_range":           "0 2147483647",
	"net.ipv4.ip_unprivileged_port_start": "0",
}

// maskedPaths are Docker's: they tell about the host, or change it. /proc/sys and its like are read-only.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
	"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// readonlyPaths are Docker's. Not among them is the tmpfs that crun mounts version 1 cgroups in and leaves writable:
// it holds nothing but mount points, and naming it here makes crun 1.8 leave the cgroups themselves writable.
var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
