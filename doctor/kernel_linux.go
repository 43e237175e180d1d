package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// oldestKernel has what sandboxes are made with: openat2 and pidfds in full (5.6) and what the oldest
// distribution kernel still maintained has beside them.
const oldestMajor, oldestMinor = 5, 10

func checkKernel(r *report) {
	release, err := kernelRelease()
	if err != nil {
		r.fail("kernel", "report this as a bug", "%v", err)
		return
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		r.warn("kernel", fmt.Sprintf("make sure that it is at least %d.%d", oldestMajor, oldestMinor),
			"%s: not a version this check understands", release)
		return
	}
	if major < oldestMajor || (major == oldestMajor && minor < oldestMinor) {
		r.fail("kernel", fmt.Sprintf("use Linux %d.%d or newer", oldestMajor, oldestMinor), "Linux %s is too old", release)
		return
	}
	r.ok("kernel", "Linux %s, %s", release, platform())
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// checkSeccomp looks for the filter actions that Docker's default profile uses.
func checkSeccomp(r *report) {
	const path = "/proc/sys/kernel/seccomp/actions_avail"
	data, err := os.ReadFile(path)
	actions := strings.Fields(string(data))
	if err != nil || !slices.Contains(actions, "errno") || !slices.Contains(actions, "allow") {
		r.fail("seccomp", "use a kernel with CONFIG_SECCOMP_FILTER", "the kernel offers no seccomp filters (%s)", path)
		return
	}
	r.ok("seccomp", "filters are available")
}

// checkCorePattern looks where the kernel leaves the core files of jobs at the process level, which may ask for them: core(5).
func checkCorePattern(r *report, path string) {
	const remedy = "sysctl -w kernel.core_pattern=core, unless jobs at the process level are trusted with it"
	content, err := os.ReadFile(path)
	pattern := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		r.warn("core files", remedy, "the kernel's core_pattern cannot be read: %v", err)
	case strings.HasPrefix(pattern, "|"):
		program, _, _ := strings.Cut(strings.TrimSpace(pattern[1:]), " ")
		r.warn("core files", remedy, "a job that raises its limit of core files has this host run %s for its crashes", program)
	case strings.HasPrefix(pattern, "/"):
		r.warn("core files", remedy, "core files go to %s, not to where the process was", pattern)
	default:
		r.ok("core files", "they stay in the sandbox")
	}
}

// checkCgroups finds out which of the three layouts is mounted and whether the limits of a sandbox can be set.
func checkCgroups(r *report) {
	const root = "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		r.fail("cgroups", "mount the cgroup file system: mount -t cgroup2 none "+root, "%s: %v", root, err)
		return
	}
	layout, has := "version 1", func(controller string) bool {
		_, err := os.Stat(filepath.Join(root, controller, "tasks"))
		return err == nil
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		data, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		controllers := strings.Fields(string(data))
		layout, has = "version 2", func(controller string) bool { return slices.Contains(controllers, controller) }
	} else if _, err := os.Stat(filepath.Join(root, "unified", "cgroup.procs")); err == nil {
		layout = "version 1 and 2 (hybrid)"
	}
	var missing []string
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if !has(controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		r.fail("cgroups", "enable them: on the kernel's command line cgroup_enable=memory, in a container by delegating them",
			"%s without %s: limits cannot be enforced", layout, strings.Join(missing, ", "))
		return
	}
	r.ok("cgroups", "%s with memory, cpu and pids", layout)
}

// checkRuntime looks for the OCI runtime of the configuration, by default crun, else runc.
func checkRuntime(ctx context.Context, r *report, configured string) {
	remedy := "install crun (apt install crun), or name another with runtime in the configuration"
	if filepath.Base(configured) == "runsc" {
		remedy = "install gVisor (apt install runsc), or name another with runtime in the configuration"
	}
	candidates := []string{"crun", "runc"}
	if configured != "" {
		candidates = []string{configured}
	}
	for _, name := range candidates {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := output(ctx, path, "--version")
		version, _, _ := strings.Cut(out, "\n")
		switch {
		case err != nil:
			r.fail("runtime", remedy, "%s does not run: %v", path, err)
		case filepath.Base(path) == "runsc":
			release, _ := kernelRelease() // checkKernel says why not
			checkGVisor(r, path, version, release)
		case !strings.Contains(strings.ToLower(out), "seccomp"):
			r.fail("runtime", "install a build of it with seccomp", "%s (%s) was built without seccomp", path, version)
		default:
			r.ok("runtime", "%s, %s", path, version)
		}
		return
	}
	r.fail("runtime", remedy, "%s is not installed", strings.Join(candidates, " or "))
}

// checkRaisedLimits reports where jobs at the process level end below the hard limits that they have elsewhere: nobody
// but CAP_SYS_RESOURCE raises a hard limit, setrlimit(2). A service manager gives it; containers often do not.
func checkRaisedLimits(r *report) {
	const check = "limits of processes"
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		r.fail(check, "report this as a bug", "reading the capabilities: %v", err)
		return
	}
	if have[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		r.ok(check, "jobs may raise them as with Docker")
		return
	}
	var processes, files unix.Rlimit
	if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NPROC, &processes), unix.Getrlimit(unix.RLIMIT_NOFILE, &files)); err != nil {
		r.fail(check, "report this as a bug", "reading the limits: %v", err)
		return
	}
	r.info(check, "no CAP_SYS_RESOURCE here: a service started like this gives containers no more than ulimit -Hu %s and -Hn %s; virtual machines are free of that",
		ulimit(processes.Max), ulimit(files.Max))
}

// ulimit writes a limit as a shell does.
func ulimit(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
