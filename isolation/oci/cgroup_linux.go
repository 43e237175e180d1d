package oci

import (
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
)

// cpuPeriod is the kernel's default, in microseconds.
const cpuPeriod = 100_000

// resources are the limits as the OCI runtime wants them. All devices are denied; the OCI runtime itself adds the
// harmless ones (null, zero, full, random, urandom, tty, ptys).
func resources(groups cgroup.Tree, limits isolation.Limits) *specs.LinuxResources {
	resources := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if limits.Memory > 0 {
		resources.Memory = &specs.LinuxMemory{Limit: &limits.Memory}
		if groups.Swap {
			resources.Memory.Swap = &limits.Memory // memory and swap together
		}
	}
	if limits.CPUs > 0 {
		period, quota := uint64(cpuPeriod), max(1000, int64(math.Round(limits.CPUs*cpuPeriod))) // the kernel's least is 1 ms
		resources.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if limits.PIDs > 0 {
		resources.Pids = &specs.LinuxPids{Limit: &limits.PIDs}
	}
	return resources
}
