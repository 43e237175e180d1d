package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/layout"
)

// specVersion is the oldest version of the OCI runtime specification that has all we use.
const specVersion = "1.0.2"

// ociSpec returns the OCI runtime specification of a sandbox.
func (r *Runtime) ociSpec(spec isolation.Spec) *specs.Spec {
	return &specs.Spec{
		Version:  specVersion,
		Root:     &specs.Root{Path: scratch(spec.ScratchDir).rootfs()},
		Hostname: spec.Hostname,
		Mounts:   r.mounts(spec),
		Process:  r.process(),
		// The filter is named twice: a runtime that does not know the annotation compiles the section itself.
		Annotations: r.filter.annotations(),
		Linux: &specs.Linux{
			Namespaces:        namespaces(spec.Network.NetNS),
			CgroupsPath:       r.cgroups.Path(spec.ID),
			Resources:         resources(r.cgroups, r.program.hostLimits(spec.Limits)),
			Seccomp:           r.profile.seccomp,
			Sysctl:            layout.Sysctls,
			MaskedPaths:       layout.MaskedPaths,
			ReadonlyPaths:     layout.ReadonlyPaths,
			RootfsPropagation: "private",
		},
	}
}

// process is the agent, as process 1. Stages are its children and can have nothing that it has not.
func (r *Runtime) process() *specs.Process {
	// Jobs go before the host's services when the host itself is short of memory; lowering it again needs a
	// capability they lack.
	oomScoreAdj := 100
	return &specs.Process{
		Args: append([]string{isolation.AgentPath}, r.program.agentArguments...),
		Cwd:  "/",
		// Without HOME crun looks for it in the image's passwd file.
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"},
		Capabilities: &specs.LinuxCapabilities{
			Bounding: r.profile.capabilities, Effective: r.profile.capabilities, Permitted: r.profile.capabilities,
		},
		// Set-uid programs and file capabilities have no effect: sudo and su to root do not work in jobs, which
		// run as root or as the image's USER and stay that.
		NoNewPrivileges: true,
		OOMScoreAdj:     &oomScoreAdj,
		Rlimits:         r.profile.rlimits,
	}
}

// namespaces are all the sandbox's own; the network's is netns, or a new one with nothing but loopback.
func namespaces(netns string) []specs.LinuxNamespace {
	return []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
		{Type: specs.NetworkNamespace, Path: netns},
	}
}
