package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Root is where hosts mount their cgroups.
const Root = "/sys/fs/cgroup"

// Tree knows where the cgroups of sandboxes are. An OCI runtime makes them, or Make; reading, emptying and removing
// them is done here, by files, because it must work on what a runtime left half-made and by id alone.
type Tree struct {
	// parent is the cgroup above all sandboxes', absolute, as seen from the root of each hierarchy.
	parent string
	// Unified says that the host has version 2: one hierarchy for all controllers.
	Unified bool
	// mounts are the mount points of all hierarchies; controllers leads from a version 1 controller to its own.
	mounts      []string
	controllers map[string]string
	// Swap says that the kernel accounts for swap, so that it can be bounded.
	Swap bool
}

// New looks at how the host mounts its cgroups.
func New(parent string) (Tree, error) {
	t := Tree{parent: filepath.Clean("/" + parent), controllers: map[string]string{}}
	if t.parent == "/" {
		return t, fault.WithRemedy(fault.Adminf("no parent for the cgroups of sandboxes"), `set cgroup_parent, for example to "airlock"`)
	}
	var root unix.Statfs_t
	if err := unix.Statfs(Root, &root); err != nil {
		return t, fault.WithRemedy(fault.Adminf("no cgroups at %s: %w", Root, err), "mount them")
	}
	if root.Type == unix.CGROUP2_SUPER_MAGIC {
		_, err := os.Stat("/proc/swaps")
		t.Unified, t.mounts, t.Swap = true, []string{Root}, err == nil
		return t, nil
	}
	if err := t.findControllers(); err != nil {
		return t, err
	}
	for _, controller := range []string{"memory", "cpu", "cpuacct", "pids", "devices"} {
		if t.controllers[controller] == "" {
			return t, fault.WithRemedy(fault.Adminf("the cgroup controller %s is not mounted", controller),
				"enable it in the kernel, or boot with systemd.unified_cgroup_hierarchy=1")
		}
	}
	_, err := os.Stat(filepath.Join(t.controllers["memory"], "memory.memsw.limit_in_bytes"))
	t.Swap = err == nil
	return t, nil
}

// findControllers reads the version 1 hierarchies from mountinfo(5 of proc): "... mountpoint ... - cgroup source
// superoptions", with the controllers among the last.
func (t *Tree) findControllers() error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || super[0] != "cgroup" || filepath.Dir(mount[4]) != Root {
			continue // of what may be mounted a second time elsewhere, in somebody's chroot, nothing is ours
		}
		t.mounts = append(t.mounts, mount[4])
		for _, option := range strings.Split(super[2], ",") {
			t.controllers[option] = mount[4]
		}
	}
	return nil
}

// Path is a sandbox's cgroup as the OCI runtime wants it named.
func (t Tree) Path(id string) string { return filepath.Join(t.parent, id) }

// ExpectMove prepares the kernel for a process that is about to be moved to another cgroup. The first such move
// after a pause waits for an RCU grace period, 5 to 20 ms (cgroup_threadgroup_rwsem); those that follow within the
// next one do not. So this process moves to where it is already, while the roots are still being mounted. It only
// saves time: a failure does not matter.
func (t Tree) ExpectMove() {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // "hierarchy:controllers:path"
		if len(fields) < 3 {
			continue
		}
		mount := t.controllers[fields[1]]
		if t.Unified && fields[1] == "" {
			mount = Root
		}
		if mount != "" {
			_ = os.WriteFile(filepath.Join(mount, fields[2], "cgroup.procs"), []byte("0"), 0)
			return
		}
	}
}

// Parents are the directories that hold sandboxes' cgroups.
func (t Tree) Parents() []string {
	parents := make([]string, len(t.mounts))
	for i, mount := range t.mounts {
		parents[i] = filepath.Join(mount, t.parent)
	}
	return parents
}

// Stats reads what a sandbox uses.
func (t Tree) Stats(id string) (isolation.Stats, error) {
	memory, err1 := t.number(id, "memory", t.either("memory.current", "memory.usage_in_bytes"), "")
	pids, err2 := t.number(id, "pids", "pids.current", "")
	cpu, err3 := t.number(id, "cpuacct", t.either("cpu.stat", "cpuacct.usage"), t.either("usage_usec", ""))
	kills, err4 := t.OOMKills(id)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return isolation.Stats{}, fmt.Errorf("reading the use of resources: %w", err)
	}
	unit := time.Nanosecond
	if t.Unified {
		unit = time.Microsecond
	}
	return isolation.Stats{Memory: memory, PIDs: pids, CPU: time.Duration(cpu) * unit, OOMKills: kills}, nil
}

// OOMKills is how many processes of the sandbox the memory limit has killed.
func (t Tree) OOMKills(id string) (int64, error) {
	return t.number(id, "memory", t.either("memory.events", "memory.oom_control"), "oom_kill")
}

func (t Tree) either(version2, version1 string) string {
	if t.Unified {
		return version2
	}
	return version1
}

// file is a file of a sandbox's cgroup.
func (t Tree) file(id, controller, name string) string {
	if t.Unified {
		return filepath.Join(Root, t.parent, id, name)
	}
	return filepath.Join(t.controllers[controller], t.parent, id, name)
}

// number reads a number from a file of a sandbox's cgroup: its only one, or the one after key.
func (t Tree) number(id, controller, name, key string) (int64, error) {
	path := t.file(id, controller, name)
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

// Sandboxes returns the ids of all sandboxes that left a mark, sorted: a cgroup, or a directory named after them in one
// of dirs, which need not exist.
func (t Tree) Sandboxes(dirs ...string) ([]string, error) {
	var ids []string
	for _, dir := range append(dirs, t.Parents()...) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listing sandboxes: %w", err)
		}
		for _, entry := range entries {
			if entry.IsDir() && isolation.ValidID(entry.Name()) {
				ids = append(ids, entry.Name())
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Dirs are the existing cgroup directories of a sandbox, in all hierarchies, children after their parents.
func (t Tree) Dirs(id string) ([]string, error) {
	var dirs []string
	for _, parent := range t.Parents() {
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

// Processes are the ids of the processes in a sandbox's cgroup directories.
func Processes(dirs []string) ([]int, error) {
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

// RemoveParents removes the parent cgroups of sandboxes, where no sandbox is left in them.
func (t Tree) RemoveParents() error {
	var errs []error
	for _, parent := range t.Parents() {
		for dir := parent; !slices.Contains(t.mounts, dir); dir = filepath.Dir(dir) {
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

// KillAll ends every process in the sandbox's cgroup. The first round kills process 1, and with it the kernel
// kills all of its namespace and lets none be born; what is left are processes that had not got there yet.
func (t Tree) KillAll(ctx context.Context, id string) error {
	return retry(ctx, func() (done bool, err error) {
		dirs, err := t.Dirs(id)
		if err != nil {
			return false, err
		}
		pids, err := Processes(dirs)
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		for _, pid := range pids {
			if err := killMember(pid, dirs); err != nil {
				return false, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		return false, fmt.Errorf("%d processes do not end", len(pids))
	})
}

// killMember kills the process with this id if it is in one of the cgroups: looked up again with a descriptor
// of the process in hand, because the id may have passed to another process since it was read.
func killMember(pid int, dirs []string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // gone; or a thread's id, as its leader is gone
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	members, err := Processes(dirs)
	if err != nil || !slices.Contains(members, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Remove removes the sandbox's cgroups, which stay busy for a moment after their last process.
func (t Tree) Remove(ctx context.Context, id string) error {
	return retry(ctx, func() (done bool, err error) {
		dirs, err := t.Dirs(id)
		if err != nil {
			return false, err
		}
		slices.Reverse(dirs) // children first
		var busy error
		for _, dir := range dirs {
			// rmdir itself: os.Remove would first try to unlink every one of them.
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				busy = fmt.Errorf("removing %s: %w", dir, err)
			}
		}
		return busy == nil, busy
	})
}

// retry calls attempt until it is done, from every millisecond to every 50 ms. When the context ends first, it
// returns the last attempt's error.
func retry(ctx context.Context, attempt func() (done bool, err error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		done, err := attempt()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
