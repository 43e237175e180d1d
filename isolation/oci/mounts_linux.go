package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/airlock-ci/airlock/isolation"
)

// mounts returns what the container mounts over the image's root, in order.
func (r *Runtime) mounts(spec isolation.Spec) []specs.Mount {
	s := scratch(spec.ScratchDir)
	cache := spec.CacheDir
	if cache == "" {
		cache = s.cache()
	}
	all := kernelMounts()
	all = append(all,
		specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "size=64m"}},
		bind(s.builds(), isolation.BuildsDir),
		bind(cache, isolation.CacheDir),
		// The scripts of stages lie here. It counts as the job's memory, so it needs a bound.
		specs.Mount{Destination: isolation.Dir, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "size=64m"}},
		bind(r.agentPath, isolation.AgentPath, "ro"),
	)
	if spec.Helper != nil {
		all = append(all, helperMounts(s, cache)...)
	}
	return all
}

// kernelMounts are the file systems that programs expect of any Linux system, as Docker mounts them.
func kernelMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64m"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		// Java, Go and others read their limits here.
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

// helperMounts attach the helper root. Its proc shows processes and nothing else, so there is nothing in it to
// mask. Its /tmp is on the scratch: downloads pass through it.
func helperMounts(s scratch, cache string) []specs.Mount {
	return []specs.Mount{
		bind(s.helper(), isolation.HelperPath, "ro"),
		{Destination: inHelper(isolation.Dir), Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "size=64m"}},
		{Destination: inHelper("/proc"), Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev", "subset=pid"}},
		bind(s.builds(), inHelper(isolation.BuildsDir)),
		bind(cache, inHelper(isolation.CacheDir)),
		bind(s.helperTmp(), inHelper("/tmp")),
	}
}

// bind binds one host path, without what may be mounted below it. Device nodes work only where nodev is absent:
// in /dev and in the helper root's.
func bind(source, destination string, options ...string) specs.Mount {
	options = append([]string{"bind", "private", "nosuid"}, options...)
	if destination != isolation.HelperPath {
		options = append(options, "nodev")
	}
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}
