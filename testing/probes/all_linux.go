package probes

import (
	"github.com/airlock-ci/airlock/isolation"
)

// The pid namespace's first process: the agent in a sandbox.
const initDir = "/proc/1/"

// all are the probes, by what they attack.
var all = []probe{
	// Files of the host's kernel that tell too much or act when written.
	{"kernel memory in proc", paths(readable, "/proc/kcore")},
	{"kernel keys in proc", paths(readable, "/proc/keys")},
	{"kernel timers in proc", paths(readable, "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats")},
	{"firmware", paths(listable, "/sys/firmware")},
	{"sysrq", paths(writable, "/proc/sysrq-trigger")},
	{"core pattern", paths(rewritable, "/proc/sys/kernel/core_pattern")},
	{"modprobe path", paths(rewritable, "/proc/sys/kernel/modprobe")},
	{"sysctl of the kernel", paths(rewritable, "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/sysrq")},
	{"sysctl of the network", paths(rewritable, "/proc/sys/net/ipv4/ip_forward")},
	{"binfmt", paths(writable, "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/file-max")},
	{"interrupt affinity", paths(writable, "/proc/irq/default_smp_affinity")},
	{"sysfs", paths(writable, "/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state")},
	{"cgroup release agent", cgroupFile("release_agent")},
	{"cgroup membership", cgroupFile("cgroup.procs")},
	{"kernel log", plain(kernelLog)},

	// Devices.
	{"kernel memory device", paths(readable, "/dev/mem", "/dev/kmem", "/dev/port", isolation.HelperPath+"/dev/mem")},
	{"kernel log device", paths(readable, "/dev/kmsg")},
	{"device nodes", deviceNodes},
	{"make a block device", plain(makeBlockDevice)},
	{"make a memory device", plain(makeMemoryDevice)},
	{"helper's device nodes", paths(chmod, isolation.HelperPath+"/dev/null", "/host/dev/null")},

	// Mounts and roots.
	{"mount", plain(mountTmpfs)},
	{"mount a cgroup", plain(mountCgroup)},
	{"mount by the new interface", plain(fsopen)},
	{"remount", plain(remount)},
	{"unmount", plain(unmount)},
	{"pivot_root", plain(pivotRoot)},
	{"chroot out", plain(chrootOut)},
	{"open by handle", plain(openByHandle)},

	// Namespaces.
	{"new user namespace", plain(newUserNamespace)},
	{"new mount namespace", plain(newMountNamespace)},
	{"join a namespace", plain(joinNamespace)},
	{"set the host name", plain(setHostname)},

	// Process 1 and its connection to the executor.
	{"ptrace process 1", plain(ptraceInit)},
	{"root of process 1", paths(listable, initDir+"root")},
	{"memory of process 1", paths(writable, initDir+"mem")},
	{"memory of process 1 by call", plain(readInitMemory)},
	{"environment of process 1", paths(readable, initDir+"environ")},
	{"descriptors of process 1", initDescriptors},
	{"take a descriptor of process 1", plain(takeDescriptor)},

	// Calls.
	{"keyctl", plain(keyctl)},
	{"bpf", plain(bpf)},
	{"perf_event_open", plain(perfEventOpen)},
	{"io_uring", plain(ioUring)},
	{"userfaultfd", plain(userfaultfd)},
	{"init_module", plain(initModule)},
	{"finit_module", plain(finitModule)},
	{"kexec", plain(kexec)},
	{"reboot", plain(reboot)},
	{"set the clock", plain(setClock)},
	{"swapon", plain(swapon)},

	// The network and the host's services.
	{"raw socket", plain(rawSocket)},
	{"packet socket", plain(packetSocket)},
	{"vsock", plain(vsock)},
	{"metadata service", dial("tcp", func(Targets) []string { return []string{"169.254.169.254:80"} })},
	{"host service", dial("tcp", func(t Targets) []string { return append(gateways(t.Address), t.Address) })},
	{"host sockets", dial("unix", func(t Targets) []string {
		return []string{t.Socket, "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/airlock/driver.sock", "/run/systemd/private"}
	})},
	{"abstract socket", dial("unix", func(t Targets) []string { return []string{"@" + t.Abstract} })},

	// What Airlock put there.
	{"write the agent", paths(replaceable, isolation.AgentPath)},
	{"write the helper root", paths(replaceable, isolation.HelperPath+"/bin/busybox", isolation.HelperPath+"/etc/hosts")},
	{"helper's proc", paths(exists, isolation.HelperPath+"/proc/sys", isolation.HelperPath+"/proc/sysrq-trigger",
		isolation.HelperPath+"/proc/kcore", isolation.HelperPath+"/proc/keys")},
}
