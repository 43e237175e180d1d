package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
	"github.com/airlock-ci/airlock/isolation"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups knows where the cgroups of sandboxes are. The OCI runtime makes them; reading, emptying and removing
// them is done here, by files, because it must work on what a runtime left half-made and by id alone.
type cgroups struct {
	// parent is the cgroup above all sandboxes', absolute, as seen from the root of each hierarchy.
	parent string
	// unified says that the host has version 2: one hierarchy for all controllers.
	unified bool
	// mounts are the mount points of all hierarchies; controllers leads from a version 1 controller to its own.
	mounts      []string
	controllers map[string]string
	// swap says that the kernel accounts for swap, so that it can be bounded.
	swap bool
}

// newCgroups looks at how the host mounts its cgroups.
func newCgroups(parent string) (cgroups, error) {
	c := cgroups{parent: filepath.Clean("/" + parent), controllers: map[string]string{}}
	if c.parent == "/" {
		return c, fault.WithRemedy(fault.Adminf("no parent for the cgroups of sandboxes"), `set cgroup_parent, for example to "airlock"`)
	}
	var root unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &root); err != nil {
		return c, fault.WithRemedy(fault.Adminf("no cgroups at %s: %w", cgroupRoot, err), "mount them")
	}
	if root.Type == unix.CGROUP2_SUPER_MAGIC {
		_, err := os.Stat("/proc/swaps")
		c.unified, c.mounts, c.swap = true, []string{cgroupRoot}, err == nil
		return c, nil
	}
	if err := c.findControllers(); err != nil {
		return c, err
	}
	for _, controller := range []string{"memory", "cpu", "cpuacct", "pids", "devices"} {
		if c.controllers[controller] == "" {
			return c, fault.WithRemedy(fault.Adminf("the cgroup controller %s is not mounted", controller),
				"enable it in the kernel, or boot with systemd.unified_cgroup_hierarchy=1")
		}
	}
	_, err := os.Stat(filepath.Join(c.controllers["memory"], "memory.memsw.limit_in_bytes"))
	c.swap = err == nil
	return c, nil
}

// findControllers reads the version 1 hierarchies from mountinfo(5 of proc): "... mountpoint ... - cgroup source
// superoptions", with the controllers among the last.
func (c *cgroups) findControllers() error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || super[0] != "cgroup" || filepath.Dir(mount[4]) != cgroupRoot {
			continue // of what may be mounted a second time elsewhere, in somebody's chroot, nothing is ours
		}
		c.mounts = append(c.mounts, mount[4])
		for _, option := range strings.Split(super[2], ",") {
			c.controllers[option] = mount[4]
		}
	}
	return nil
}

// path is a sandbox's cgroup as the OCI runtime wants it named.
func (c cgroups) path(id string) string { return filepath.Join(c.parent, id) }

// expectMove prepares the kernel for a process that is about to be moved to another cgroup. The first such move
// after a pause waits for an RCU grace period, 5 to 20 ms (cgroup_threadgroup_rwsem); those that follow within the
// next one do not. So this process moves to where it is already, while the roots are still being mounted. It only
// saves time: a failure does not matter.
func (c cgroups) expectMove() {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // "hierarchy:controllers:path"
		if len(fields) < 3 {
			continue
		}
		mount := c.controllers[fields[1]]
		if c.unified && fields[1] == "" {
			mount = cgroupRoot
		}
		if mount != "" {
			_ = os.WriteFile(filepath.Join(mount, fields[2], "cgroup.procs"), []byte("0"), 0)
			return
		}
	}
}

// parents are the directories that hold sandboxes' cgroups.
func (c cgroups) parents() []string {
	parents := make([]string, len(c.mounts))
	for i, mount := range c.mounts {
		parents[i] = filepath.Join(mount, c.parent)
	}
	return parents
}

// cpuPeriod is the kernel's default, in microseconds.
const cpuPeriod = 100_000

// resources are the limits as the OCI runtime wants them. All devices are denied; the OCI runtime itself adds the
// harmless ones (null, zero, full, random, urandom, tty, ptys).
func (c cgroups) resources(limits isolation.Limits) *specs.LinuxResources {
	resources := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if limits.Memory > 0 {
		resources.Memory = &specs.LinuxMemory{Limit: &limits.Memory}
		if c.swap {
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

// stats reads what a sandbox uses.
func (c cgroups) stats(id string) (isolation.Stats, error) {
	memory, err1 := c.number(id, "memory", c.either("memory.current", "memory.usage_in_bytes"), "")
	pids, err2 := c.number(id, "pids", "pids.current", "")
	cpu, err3 := c.number(id, "cpuacct", c.either("cpu.stat", "cpuacct.usage"), c.either("usage_usec", ""))
	kills, err4 := c.oomKills(id)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return isolation.Stats{}, fmt.Errorf("reading the use of resources: %w", err)
	}
	unit := time.Nanosecond
	if c.unified {
		unit = time.Microsecond
	}
	return isolation.Stats{Memory: memory, PIDs: pids, CPU: time.Duration(cpu) * unit, OOMKills: kills}, nil
}

// oomKills is how many processes of the sandbox the memory limit has killed.
func (c cgroups) oomKills(id string) (int64, error) {
	return c.number(id, "memory", c.either("memory.events", "memory.oom_control"), "oom_kill")
}

func (c cgroups) either(version2, version1 string) string {
	if c.unified {
		return version2
	}
	return version1
}

// number reads a number from a file of a sandbox's cgroup: its only one, or the one after key.
func (c cgroups) number(id, controller, name, key string) (int64, error) {
	mount := cgroupRoot
	if !c.unified {
		mount = c.controllers[controller]
	}
	path := filepath.Join(mount, c.parent, id, name)
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if key == "" {
		return strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == key {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}

// dirs are the existing cgroup directories of a sandbox, in all hierarchies, children after their parents.
func (c cgroups) dirs(id string) ([]string, error) {
	var dirs []string
	for _, parent := range c.parents() {
		err := filepath.WalkDir(filepath.Join(parent, id), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("looking for cgroups: %w", err)
		}
	}
	return dirs, nil
}

// processes are the ids of the processes in a sandbox's cgroup directories.
func processes(dirs []string) ([]int, error) {
	var pids []int
	for _, dir := range dirs {
		content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) { // it has just been removed
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s/cgroup.procs: %w", dir, err)
			}
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// removeParents removes the parent cgroups of sandboxes, where no sandbox is left in them.
func (c cgroups) removeParents() error {
	var errs []error
	for _, parent := range c.parents() {
		for dir := parent; !slices.Contains(c.mounts, dir); dir = filepath.Dir(dir) {
			err := unix.Rmdir(dir)
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
				break // somebody else's is below
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("removing the cgroup %s: %w", dir, err))
				break
			}
		}
	}
	return errors.Join(errs...)
}
