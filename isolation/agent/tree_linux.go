package agent

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spareTimeout is how long a kill spares other sessions before it takes everything, PID 1's kill(-1).
	spareTimeout = 5 * time.Second
	// killTimeout is how long a kill may take in all. Only processes that hang in the kernel take longer.
	killTimeout = 30 * time.Second
)

// procTable reads the processes of the sandbox from a proc file system that was opened before any of them ran: a
// job cannot hide by mounting something else on /proc.
type procTable struct {
	dir *os.File
}

// proc is one process, as far as a tree needs it.
type proc struct {
	pid, ppid, group, session int
	name                      string
}

func openProcTable() (*procTable, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("opening /proc of the sandbox: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return nil, errors.New("no proc file system is mounted on /proc of the sandbox")
	}
	return &procTable{dir: dir}, nil
}

// read returns all living processes. Zombies count as dead; they are somebody's to reap.
func (t *procTable) read() ([]proc, error) {
	if _, err := t.dir.Seek(0, 0); err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	names, err := t.dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var procs []proc
	buf := make([]byte, 1024)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := t.stat(pid, buf); ok {
			procs = append(procs, p)
		}
	}
	return procs, nil
}

// stat reads one process; it is not ok when it has ended.
func (t *procTable) stat(pid int, buf []byte) (proc, bool) {
	fd, err := unix.Openat(int(t.dir.Fd()), strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return proc{}, false
	}
	n, err := unix.Read(fd, buf)
	unix.Close(fd)
	if err != nil {
		return proc{}, false
	}
	return parseStat(pid, buf[:max(n, 0)])
}

// kernelThread is the flag PF_KTHREAD of proc_pid_stat(5).
const kernelThread = 0x00200000

// parseStat reads a line of proc_pid_stat(5). The name, in parentheses, may contain anything.
func parseStat(pid int, line []byte) (proc, bool) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return proc{}, false
	}
	// state, ppid, pgrp, session, ...; num_threads is the 20th field of the line, the 18th of these.
	fields := bytes.Fields(line[end+1:])
	if len(fields) < 18 {
		return proc{}, false
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(string(fields[i])) // the kernel wrote it
		return n
	}
	// A guest's agent sees its kernel's own threads, which nobody started and nothing ends.
	if flags := number(6); flags&kernelThread != 0 {
		return proc{}, false
	}
	// The first thread of a process may be dead while others run: then it is listed as a zombie, but with threads.
	if state := fields[0][0]; state == 'X' || state == 'Z' && number(17) <= 1 {
		return proc{}, false
	}
	return proc{pid: pid, ppid: number(1), group: number(2), session: number(3), name: string(line[open+1 : end])}, true
}

// tree returns the processes of procs that descend from pid, itself included, or belong to the session it leads.
func tree(procs []proc, pid int) map[int]bool {
	members := map[int]bool{}
	for grown := true; grown; {
		grown = false
		for _, p := range procs {
			if !members[p.pid] && (p.pid == pid || p.session == pid || members[p.ppid]) {
				members[p.pid], grown = true, true
			}
		}
	}
	return members
}

// targets returns the processes that c has started and that still live, and the rest of the sandbox's. The kernel
// keeps no record of who started an orphan that left its session; such daemons count to every stage that ends, and
// to no administrator's session unless it is the last. Never does anything count that belongs to another living
// process. Without c, everything counts. The caller holds mu.
func (s *server) targets(c *child) (targets, rest []proc, err error) {
	procs, err := s.procs.read()
	if err != nil {
		return nil, nil, err
	}
	var others []*child
	if c != nil {
		others = s.others(c)
	}
	var eligible map[int]bool // nil: all
	if len(others) > 0 && c.interactive {
		eligible = tree(procs, c.pid)
	} else if !s.pid1 {
		eligible = tree(procs, os.Getpid())
	}
	spared := map[int]bool{os.Getpid(): true}
	for _, other := range others {
		maps.Copy(spared, tree(procs, other.pid))
	}
	for _, p := range procs {
		if !spared[p.pid] && (eligible == nil || eligible[p.pid]) {
			targets = append(targets, p)
		} else {
			rest = append(rest, p)
		}
	}
	return targets, rest, nil
}

// others returns the processes beside c whose main process lives. The caller holds mu.
func (s *server) others(c *child) []*child {
	var others []*child
	for _, other := range s.byPID {
		if other != c {
			others = append(others, other)
		}
	}
	return others
}

// killTree kills what c has started, again and again until nothing of it lives; without c, everything.
func (s *server) killTree(c *child) error {
	begin := time.Now()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		left, err := s.killOnce(c, c == nil || time.Since(begin) > spareTimeout)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			s.reap() // the last ones, without waiting for their signals
			return nil
		}
		if time.Since(begin) > killTimeout {
			return fmt.Errorf("%d processes do not end although they were killed %s ago: %s", len(left), killTimeout, describe(left))
		}
		time.Sleep(pause)
	}
}

// killOnce kills what c has started and returns who was still there. When nobody has to be spared, one kill(-1)
// takes all at once, which no fork escapes.
func (s *server) killOnce(c *child, spareNobody bool) ([]proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid1 && (spareNobody || len(s.others(c)) == 0) {
		if errors.Is(unix.Kill(-1, unix.SIGKILL), unix.ESRCH) {
			return nil, nil // never in a guest: there are always threads of its kernel
		}
		targets, _, err := s.targets(c)
		return targets, err
	}
	targets, rest, err := s.targets(c)
	if err != nil {
		return nil, err
	}
	// A group is killed at once, too: no fork in it escapes. A process that has ended meanwhile is no
	// error, and one that has not is found by the next pass.
	for _, group := range wholeGroups(targets, rest) {
		_ = unix.Kill(-group, unix.SIGKILL)
	}
	for _, t := range targets {
		_ = unix.Kill(t.pid, unix.SIGKILL)
	}
	return targets, nil
}

// wholeGroups returns the process groups of targets to which nobody of the rest belongs.
func wholeGroups(targets, rest []proc) []int {
	seen := map[int]bool{0: true, 1: true} // to kill(2) these are no groups
	for _, p := range rest {
		seen[p.group] = true
	}
	var groups []int
	for _, t := range targets {
		if !seen[t.group] {
			seen[t.group] = true
			groups = append(groups, t.group)
		}
	}
	return groups
}

func describe(procs []proc) string {
	const most = 5
	var names []string
	for _, p := range procs[:min(len(procs), most)] {
		names = append(names, fmt.Sprintf("%d (%s)", p.pid, p.name))
	}
	return strings.Join(names, ", ")
}
