package leakcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ProcessInfo is one process.
type ProcessInfo struct {
	PID, Parent int
	// Start is when it began, in clock ticks since the boot: a pid with it identifies a process.
	Start uint64
	// Program is the base name of its executable; that of argv[0], or the kernel's short name, when the
	// executable cannot be read.
	Program string
	// Command is the command line, arguments joined by spaces.
	Command string
	// Cgroups are the paths of its cgroups, without doubles, joined by spaces.
	Cgroups string
	// ForeignPIDs says that it is in another pid namespace than the test.
	ForeignPIDs bool
	// Own says that it is the leak check's process or a descendant.
	Own bool
}

// detail is the text in which marks are looked for: they show which test started a process.
func (p ProcessInfo) detail() string { return p.Command + ", cgroup " + p.Cgroups }

// Suspects chooses the processes that Airlock, its runtimes and GitLab Runner start: by their program's name,
// or because they are in another pid namespace, as what runs in a sandbox is.
func Suspects(p ProcessInfo) bool {
	return p.ForeignPIDs || strings.HasPrefix(p.Program, "airlock") ||
		slices.Contains([]string{"crun", "runc", "gitlab-runner", "mkfs.ext4", "mke2fs"}, p.Program)
}

// Everything chooses every process, for machines that run nothing else.
func Everything(ProcessInfo) bool { return true }

// processes looks at the chosen processes and the test's own descendants.
func processes(o Options) (things, error) {
	chosen, err := choose(o)
	if err != nil {
		return nil, err
	}
	found := things{}
	for _, p := range chosen {
		if p.PID != os.Getpid() {
			found.addOwn(fmt.Sprintf("pid %d since tick %d: %s", p.PID, p.Start, p.Program), p.detail(), p.Own)
		}
	}
	return found, nil
}

// choose returns the chosen processes, the test itself and its descendants.
func choose(o Options) ([]ProcessInfo, error) {
	all, err := readProcesses()
	if err != nil {
		return nil, err
	}
	own := map[int]bool{os.Getpid(): true}
	for grown := true; grown; { // children may come before their parents
		grown = false
		for _, p := range all {
			if own[p.Parent] && !own[p.PID] {
				own[p.PID], grown = true, true
			}
		}
	}
	for i := range all {
		all[i].Own = own[all[i].PID]
	}
	return slices.DeleteFunc(all, func(p ProcessInfo) bool { return !p.Own && !o.Process(p) }), nil
}

// readProcesses returns all processes but kernel threads and those that only wait to be reaped.
func readProcesses() ([]ProcessInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	ownPIDs, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	var all []ProcessInfo
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok := readProcess(pid, ownPIDs)
		if ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess reads one process; false when it ended, is a zombie or a kernel thread.
func readProcess(pid int, ownPIDs string) (ProcessInfo, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return ProcessInfo{}, false
	}
	// pid (name) state ppid ... flags(9) ... starttime(22); the name may contain anything (proc_pid_stat(5)).
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || end < open {
		return ProcessInfo{}, false
	}
	fields := strings.Fields(string(stat[end+1:])) // fields[0] is field 3
	const kernelThread = 0x00200000                // PF_KTHREAD, include/linux/sched.h
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ProcessInfo{}, false
	}
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	if flags&kernelThread != 0 {
		return ProcessInfo{}, false
	}
	p := ProcessInfo{PID: pid, Program: string(stat[open+1 : end])}
	p.Parent, _ = strconv.Atoi(fields[1])
	p.Start, _ = strconv.ParseUint(fields[19], 10, 64)
	if cmdline, err := os.ReadFile(dir + "/cmdline"); err == nil && len(cmdline) > 0 {
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		p.Program, p.Command = filepath.Base(args[0]), strings.Join(args, " ")
	}
	p.Cgroups = readCgroups(dir + "/cgroup")
	if exe, err := os.Readlink(dir + "/exe"); err == nil {
		p.Program = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	if pids, err := os.Readlink(dir + "/ns/pid"); err == nil {
		p.ForeignPIDs = pids != ownPIDs
	}
	return p, true
}

// readCgroups returns the paths that a process's cgroup file names: hierarchy:controllers:path, a line each (cgroups(7)).
func readCgroups(file string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return "" // it ended
	}
	var paths []string
	for line := range strings.Lines(string(content)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && !slices.Contains(paths, fields[2]) {
			paths = append(paths, fields[2])
		}
	}
	return strings.Join(paths, " ")
}

// namespaces looks at the namespaces that the chosen processes, the test and its descendants are in or hold
// open. One that is kept by a mount shows among the mounts.
func namespaces(o Options) (things, error) {
	chosen, err := choose(o)
	if err != nil {
		return nil, err
	}
	found := things{}
	for _, p := range chosen {
		for _, folder := range []string{"ns", "fd"} {
			held, err := heldNamespaces(filepath.Join("/proc", strconv.Itoa(p.PID), folder))
			if err != nil {
				return found, err
			}
			for _, namespace := range held {
				if _, known := found[namespace]; !known || p.Own {
					found[namespace] = thing{count: 1, detail: fmt.Sprintf("held by pid %d, %s", p.PID, p.detail()), own: p.Own}
				}
			}
		}
	}
	return found, nil
}

// heldNamespaces returns the targets of the links in dir that are namespaces: "net:[4026531840]".
func heldNamespaces(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, nil // the process ended meanwhile
	}
	if err != nil {
		return nil, err
	}
	var held []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		kind, _, isNamespace := strings.Cut(target, ":[")
		if err == nil && isNamespace && slices.Contains([]string{"net", "mnt", "pid", "ipc", "uts", "cgroup", "user", "time"}, kind) {
			held = append(held, target)
		}
	}
	return held, nil
}
