package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// Make makes the cgroup of a sandbox with limits; zero is no limit. A caller with an OCI runtime leaves this to it.
func (t Tree) Make(id string, limits isolation.Limits) error {
	if t.Unified {
		if err := t.delegate(); err != nil {
			return err
		}
	}
	for _, dir := range t.own(id) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the cgroup: %w", err)
		}
	}
	if limits.Memory > 0 {
		if err := t.limitMemory(id, limits.Memory); err != nil {
			return err
		}
	}
	if limits.PIDs > 0 {
		if err := t.write(id, "pids", "pids.max", strconv.FormatInt(limits.PIDs, 10)); err != nil {
			return err
		}
	}
	return t.LimitCPUs(id, limits.CPUs)
}

// Quota is how long a cgroup with so many CPUs' worth of time may run in each period, both in microseconds.
func Quota(cpus float64) (quota int64, period uint64) {
	const usual, least = 100_000, 1000 // the kernel's
	return max(least, int64(math.Round(cpus*usual))), usual
}

// LimitCPUs sets how many CPUs' worth of time the sandbox may use; zero is no limit.
func (t Tree) LimitCPUs(id string, cpus float64) error {
	if cpus <= 0 {
		return nil
	}
	quota, period := Quota(cpus)
	if t.Unified {
		return t.write(id, "cpu", "cpu.max", fmt.Sprintf("%d %d", quota, period))
	}
	return errors.Join(
		t.write(id, "cpu", "cpu.cfs_period_us", strconv.FormatUint(period, 10)),
		t.write(id, "cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)))
}

func (t Tree) limitMemory(id string, limit int64) error {
	value := strconv.FormatInt(limit, 10)
	if err := t.write(id, "memory", t.either("memory.max", "memory.limit_in_bytes"), value); err != nil || !t.Swap {
		return err
	}
	if t.Unified {
		err := t.write(id, "memory", "memory.swap.max", "0")
		if errors.Is(err, fs.ErrNotExist) { // a kernel that does not account for swap
			return nil
		}
		return err
	}
	return t.write(id, "memory", "memory.memsw.limit_in_bytes", value)
}

// Add moves a process with all its threads into the sandbox's cgroup. The caller must know that the id is still the
// process's: it is its parent.
func (t Tree) Add(id string, pid int) error {
	for _, dir := range t.own(id) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("moving process %d into its cgroup: %w", pid, err)
		}
	}
	return nil
}

// own are the directories of a sandbox's cgroup in the hierarchies that bound, count or mark it.
func (t Tree) own(id string) []string {
	if t.Unified {
		return []string{filepath.Join(Root, t.parent, id)}
	}
	var dirs []string
	for _, controller := range []string{"memory", "cpu", "cpuacct", "pids"} {
		dirs = append(dirs, filepath.Join(t.controllers[controller], t.parent, id))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs) // controllers may share a hierarchy
}

// delegate makes the parents on a version 2 host pass the controllers on.
func (t Tree) delegate() error {
	dir := Root
	for _, name := range append([]string{""}, strings.Split(strings.Trim(t.parent, "/"), "/")...) {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making the parent cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0); err != nil {
			return fmt.Errorf("passing controllers on to the cgroups below %s: %w", dir, err)
		}
	}
	return nil
}

// write writes a file of a sandbox's cgroup.
func (t Tree) write(id, controller, name, value string) error {
	path := t.file(id, controller, name)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("writing %q to %s: %w", value, path, err)
	}
	return nil
}
