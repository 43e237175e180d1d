package layout

import (
	"strings"

	"github.com/airlock-ci/airlock/isolation"
)

// Mount is one mount of a sandbox, in the terms of the OCI runtime specification and of mount(8).
type Mount struct {
	// Destination is a path in the image's root.
	Destination string
	// Type is a file system, or "bind".
	Type, Source string
	Options      []string
}

// Sources are the directories and files, outside of the roots, that Mounts binds into them.
type Sources struct {
	Agent, Builds, Cache string
	// Helper is the helper root and HelperTmp its /tmp; both empty when there is none.
	Helper, HelperTmp string
}

// Mounts returns what is mounted over the image's root, in order.
func Mounts(s Sources) []Mount { return append(KernelMounts(), SandboxMounts(s)...) }

// SandboxMounts are those of Mounts that differ between sandboxes, and what is mounted upon them.
func SandboxMounts(s Sources) []Mount {
	all := []Mount{
		bind(s.Builds, isolation.BuildsDir),
		bind(s.Cache, isolation.CacheDir),
		ownMount(isolation.Dir),
		bind(s.Agent, isolation.AgentPath, "ro"),
	}
	if s.Helper != "" {
		all = append(all, helperMounts(s)...)
	}
	return all
}

// KernelMounts are those of Mounts that are the same in every sandbox: the file systems that
// programs expect of any Linux system, as Docker mounts them. As with Docker /run is none of them: what the image has there,
// directories of services above all, is there with its owners and modes.
func KernelMounts() []Mount {
	return []Mount{
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

// ownMount is Airlock's own directory in a root: the scripts of stages lie there. It counts as the job's memory, so it needs
// a bound; and as the agent empties it before each stage, the number of files needs one, too.
func ownMount(destination string) Mount {
	options := []string{"nosuid", "nodev", "mode=755", "size=64m", "nr_inodes=8192"}
	return Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: options}
}

// helperMounts attach the helper root. Its proc shows processes and nothing else, so there is nothing in it to
// mask. Its /tmp is on the scratch: downloads pass through it.
func helperMounts(s Sources) []Mount {
	return []Mount{
		bind(s.Helper, isolation.HelperPath, "ro"),
		ownMount(inHelper(isolation.Dir)),
		{Destination: inHelper("/proc"), Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev", "subset=pid"}},
		bind(s.Builds, inHelper(isolation.BuildsDir)),
		bind(s.Cache, inHelper(isolation.CacheDir)),
		bind(s.HelperTmp, inHelper("/tmp")),
	}
}

// inHelper returns a path of the helper root as the sandbox sees it.
func inHelper(path string) string { return isolation.HelperPath + "/" + strings.TrimPrefix(path, "/") }

// bind binds one path, without what may be mounted below it. Device nodes work only where nodev is absent:
// in /dev and in the helper root's.
func bind(source, destination string, options ...string) Mount {
	options = append([]string{"bind", "private", "nosuid"}, options...)
	if destination != isolation.HelperPath {
		options = append(options, "nodev")
	}
	return Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}
