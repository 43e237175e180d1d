package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/cgroup"
)

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
		quota, period := cgroup.Quota(limits.CPUs)
		resources.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if limits.PIDs > 0 {
		resources.Pids = &specs.LinuxPids{Limit: &limits.PIDs}
	}
	return resources
}
