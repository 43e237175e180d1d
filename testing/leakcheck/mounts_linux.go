package leakcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mountEntry is one line of mountinfo.
type mountEntry struct {
	point, fstype, source, root string
	// options are those of the file system, an overlay's directories among them.
	options string
}

// readMounts returns the mounts that a process sees, by its directory in /proc.
func readMounts(proc string) ([]mountEntry, error) {
	content, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, err
	}
	var entries []mountEntry
	for line := range strings.Lines(string(content)) {
		// 36 35 98:0 /root /point options [optional fields] - type source superoptions (proc_pid_mountinfo(5))
		mount, filesystem, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(left) < 5 || len(right) < 2 {
			return nil, fmt.Errorf("unreadable line %q", line)
		}
		entries = append(entries, mountEntry{point: left[4], root: left[3], fstype: right[0], source: right[1], options: strings.Join(right[2:], " ")})
	}
	return entries, nil
}

// hostProc is the directory in /proc of a process that sees the host as it is: process 1, because the test may
// have a mount namespace of its own.
func hostProc() string {
	if _, err := os.Readlink("/proc/1/ns/mnt"); err != nil {
		return "/proc/self"
	}
	return "/proc/1"
}

// mounts looks at the host's mounts and, where it differs, at the test's own mount namespace.
func mounts(Options) (things, error) {
	procs := []string{hostProc()}
	host, _ := os.Readlink(procs[0] + "/ns/mnt")
	if own, err := os.Readlink("/proc/self/ns/mnt"); err == nil && own != host {
		procs = append(procs, "/proc/self")
	}
	found := things{}
	for _, proc := range procs {
		entries, err := readMounts(proc)
		if err != nil {
			return found, err
		}
		for _, e := range entries {
			found.add(fmt.Sprintf("%s (%s from %s)", e.point, e.fstype, e.source), "root "+e.root+", seen by "+proc+", "+e.options)
		}
	}
	return found, nil
}

// cgroups looks at the directories of every hierarchy, v1 and v2, through the host's root.
func cgroups(Options) (things, error) {
	proc := hostProc()
	entries, err := readMounts(proc)
	if err != nil {
		return nil, err
	}
	found := things{}
	seen := map[string]bool{}
	for _, e := range entries {
		if e.fstype != "cgroup" && e.fstype != "cgroup2" || seen[e.point] {
			continue
		}
		seen[e.point] = true
		root := proc + "/root" + e.point
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // removed meanwhile
			case err != nil:
				return err
			case d.IsDir():
				found.add(e.point+strings.TrimPrefix(path, root), "")
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}
