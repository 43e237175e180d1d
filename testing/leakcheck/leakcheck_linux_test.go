package leakcheck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/ownthread"
	"github.com/airlock-ci/airlock/testing/leakcheck"
)

// leak makes one thing and returns what removes it again.
type leak struct {
	name string
	kind leakcheck.Kind
	// thing is part of what the leak check must call it.
	thing string
	make  func(t *testing.T, dir string) (remove func())
}

func leaks() []leak {
	return []leak{
		{"a mount", leakcheck.Mount, "/mounted (tmpfs from leakcheck-test)", mountLeak},
		{"a second mount in the same place", leakcheck.Mount, "/mounted (tmpfs from leakcheck-test)", func(t *testing.T, dir string) func() {
			first := mountLeak(t, dir)
			second := mountLeak(t, dir)
			return func() { second(); first() }
		}},
		{"a link", leakcheck.Link, "ledgertest0 (bridge)", linkLeak},
		{"an nftables table", leakcheck.NFTables, "table ip leakcheck-test", tableLeak},
		{"an nftables rule", leakcheck.NFTables, "table ip leakcheck-test chain c rule *expr.Counter", tableLeak},
		{"an nftables set's element", leakcheck.NFTables, "table ip leakcheck-test set s element c0000207", tableLeak},
		{"a cgroup", leakcheck.Cgroup, "/leakcheck-test/deep", cgroupLeak},
		{"a child", leakcheck.Process, ": sleep", func(t *testing.T, _ string) func() { return start(t, exec.Command("sleep", "60")) }},
		{"an orphan of Airlock's", leakcheck.Process, ": airlock-leak", orphanLeak},
		{"a process in other namespaces", leakcheck.Namespace, "net:[", func(t *testing.T, _ string) func() {
			return start(t, exec.Command("unshare", "--net", "sleep", "60"))
		}},
		{"a namespace that is only held open", leakcheck.Namespace, "net:[", heldNamespaceLeak},
		{"a namespace kept by a mount", leakcheck.Mount, "/netns (nsfs from nsfs)", boundNamespaceLeak},
		{"a loop device", leakcheck.Loop, "/backing", loopLeak},
		{"a file", leakcheck.File, "/watched/a/b", func(t *testing.T, dir string) func() {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "watched", "a", "b"), 0o755))
			return func() { require.NoError(t, os.RemoveAll(filepath.Join(dir, "watched", "a"))) }
		}},
		{"a runner's directory", leakcheck.File, "/custom-executor", func(t *testing.T, _ string) func() {
			path, err := os.MkdirTemp("", "custom-executor")
			require.NoError(t, err)
			return func() { require.NoError(t, os.Remove(path)) }
		}},
	}
}

// marked returns marks of these texts.
func marked(texts ...string) *leakcheck.Marks {
	m := &leakcheck.Marks{}
	m.Add(texts...)
	return m
}

// only returns the differences of a kind whose name contains a text: other programs may change this host meanwhile.
func only(diffs []leakcheck.Diff, kind leakcheck.Kind, thing string) []leakcheck.Diff {
	return slices.DeleteFunc(slices.Clone(diffs), func(d leakcheck.Diff) bool {
		return d.Kind != kind || !strings.Contains(d.Thing, thing)
	})
}

// TestEveryKindOfLeakIsFound makes each leak on purpose: the leak check has it while it is there and not after, and by the
// mark in its name or by being the test's own it counts.
func TestEveryKindOfLeakIsFound(t *testing.T) {
	for _, l := range leaks() {
		t.Run(l.name, func(t *testing.T) {
			dir := t.TempDir()
			o := leakcheck.Options{
				Dirs:     []string{filepath.Join(dir, "watched"), filepath.Join(dir, "missing")},
				Marks:    marked(dir, "leakcheck-test", "ledgertest0"),
				Patience: 300 * time.Millisecond,
			}
			before, err := leakcheck.Take(o)
			require.NoError(t, err)
			remove := l.make(t, dir)
			var diffs []leakcheck.Diff
			require.Eventually(t, func() bool { // a process takes a moment until it is what it will be
				_, diffs, err = leakcheck.Wait(t.Context(), before, o)
				counting, _ := o.Split(diffs)
				diffs = only(counting, l.kind, l.thing)
				return err == nil && len(diffs) > 0
			}, 10*time.Second, 10*time.Millisecond, "%v", err)
			require.Positive(t, diffs[0].Change)

			remove()
			o.Patience = 5 * time.Second
			_, diffs, err = leakcheck.Wait(t.Context(), before, o)
			require.NoError(t, err)
			require.Empty(t, only(diffs, l.kind, l.thing))
		})
	}
}

func mountLeak(t *testing.T, dir string) func() {
	point := filepath.Join(dir, "mounted")
	require.NoError(t, os.MkdirAll(point, 0o755))
	require.NoError(t, unix.Mount("leakcheck-test", point, "tmpfs", 0, "size=4k"))
	return func() { require.NoError(t, unix.Unmount(point, 0)) }
}

func linkLeak(t *testing.T, _ string) func() {
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "ledgertest0"}}
	require.NoError(t, netlink.LinkAdd(link))
	return func() { require.NoError(t, netlink.LinkDel(link)) }
}

func tableLeak(t *testing.T, _ string) func() { return makeTable(t, 5) }

// makeTable makes a table with a rule, whose counter starts at packets, and a set.
func makeTable(t *testing.T, packets uint64) (remove func()) {
	conn, err := nftables.New()
	require.NoError(t, err)
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "leakcheck-test"})
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "c"})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Counter{Packets: packets}, &expr.Verdict{Kind: expr.VerdictDrop},
	}})
	set := &nftables.Set{Table: table, Name: "s", KeyType: nftables.TypeIPAddr}
	require.NoError(t, conn.AddSet(set, []nftables.SetElement{{Key: net.IPv4(192, 0, 2, 7).To4()}}))
	require.NoError(t, conn.Flush())
	return func() {
		conn.DelTable(table)
		require.NoError(t, conn.Flush())
	}
}

func cgroupLeak(t *testing.T, _ string) func() {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	require.NoError(t, err)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		hierarchies = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	require.NotEmpty(t, hierarchies)
	parent := filepath.Join(filepath.Dir(hierarchies[len(hierarchies)-1]), "leakcheck-test")
	require.NoError(t, os.MkdirAll(filepath.Join(parent, "deep"), 0o755))
	return func() {
		require.NoError(t, os.Remove(filepath.Join(parent, "deep")))
		require.NoError(t, os.Remove(parent))
	}
}

func start(t *testing.T, cmd *exec.Cmd) func() {
	require.NoError(t, cmd.Start())
	return func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
}

// orphanLeak starts a program named like Airlock's whose parent has ended, as a daemon's has.
func orphanLeak(t *testing.T, dir string) func() {
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	program := filepath.Join(dir, "airlock-leak")
	content, err := os.ReadFile(sleep)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, content, 0o755))
	out, err := exec.Command("sh", "-c", `"$0" 60 >/dev/null 2>&1 & echo $!`, program).Output()
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(out), &pid)
	require.NoError(t, err)
	return func() { require.NoError(t, unix.Kill(pid, unix.SIGKILL)) }
}

// inNewNetNS calls f on a thread that is in a network namespace of its own and ends after it.
func inNewNetNS(t *testing.T, f func()) {
	done := make(chan error)
	ownthread.Go(func() {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	})
	require.NoError(t, <-done)
}

func heldNamespaceLeak(t *testing.T, _ string) func() {
	var held *os.File
	inNewNetNS(t, func() { held, _ = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())) })
	require.NotNil(t, held)
	return func() { require.NoError(t, held.Close()) }
}

func boundNamespaceLeak(t *testing.T, dir string) func() {
	point := filepath.Join(dir, "netns")
	require.NoError(t, os.WriteFile(point, nil, 0o600))
	var err error
	inNewNetNS(t, func() {
		err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), point, "", unix.MS_BIND, "")
	})
	require.NoError(t, err)
	return func() { require.NoError(t, unix.Unmount(point, 0)) }
}

func loopLeak(t *testing.T, dir string) func() {
	backing := filepath.Join(dir, "backing")
	require.NoError(t, os.WriteFile(backing, make([]byte, 1<<20), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	require.NoError(t, err, string(out))
	device := strings.TrimSpace(string(out))
	return func() { require.NoError(t, exec.Command("losetup", "--detach", device).Run()) }
}

// TestDamageIsFound removes what was there before.
func TestDamageIsFound(t *testing.T) {
	dir := t.TempDir()
	remove := mountLeak(t, dir)
	before, err := leakcheck.Take(leakcheck.Options{})
	require.NoError(t, err)
	remove()
	after, err := leakcheck.Take(leakcheck.Options{})
	require.NoError(t, err)
	diffs := slices.DeleteFunc(before.Compare(after), func(d leakcheck.Diff) bool { return !strings.Contains(d.Thing, "leakcheck-test") })
	require.Len(t, diffs, 1)
	require.Equal(t, -1, diffs[0].Change)
}

func TestTrafficIsNoDifference(t *testing.T) {
	o := leakcheck.Options{Marks: marked("leakcheck-test"), Patience: time.Nanosecond}
	remove := makeTable(t, 5)
	before, err := leakcheck.Take(o)
	require.NoError(t, err)
	remove()
	defer makeTable(t, 999)()
	_, diffs, err := leakcheck.Wait(t.Context(), before, o)
	require.NoError(t, err)
	counting, _ := o.Split(diffs)
	require.Empty(t, counting)
}

// TestOthersAreNotBlamed: what carries no mark and is not the leak check's own is told, and fails nobody; nor is it waited for.
func TestOthersAreNotBlamed(t *testing.T) {
	dir := t.TempDir()
	marks := &leakcheck.Marks{}
	marks.Add("") // which everything would carry
	o := leakcheck.Options{Marks: marks, Patience: time.Hour}
	test := &book{}
	before, err := leakcheck.Take(o)
	require.NoError(t, err)
	leakcheck.CheckWith(test, o)
	defer mountLeak(t, dir)()
	defer linkLeak(t, dir)()
	defer tableLeak(t, dir)()
	defer cgroupLeak(t, dir)()
	defer loopLeak(t, dir)()
	defer orphanLeak(t, dir)()
	test.end()
	require.Empty(t, test.errors)

	after, diffs, err := leakcheck.Wait(t.Context(), before, o)
	require.NoError(t, err)
	counting, others := o.Split(diffs)
	require.Empty(t, counting)
	for _, l := range leaks() {
		if slices.Contains([]leakcheck.Kind{leakcheck.Link, leakcheck.NFTables, leakcheck.Cgroup, leakcheck.Loop}, l.kind) {
			require.NotEmpty(t, only(others, l.kind, l.thing), l.name)
		}
	}
	var printed bytes.Buffer
	leakcheck.Print(&printed, before, after, counting, others)
	require.Contains(t, printed.String(), "nobody is blamed")
	require.Contains(t, printed.String(), "ledgertest0")

	marks.Add("ledgertest0") // as soon as it is known whose it is
	counting, _ = o.Split(diffs)
	require.Len(t, counting, 1)
	require.Equal(t, leakcheck.Link, counting[0].Kind)
}

func TestProcessesAreChosen(t *testing.T) {
	var seen []string
	_, err := leakcheck.Take(leakcheck.Options{Process: func(p leakcheck.ProcessInfo) bool {
		seen = append(seen, p.Program)
		return false
	}})
	require.NoError(t, err)
	require.NotEmpty(t, seen)
	require.NotContains(t, seen, "kthreadd")
	for program, suspect := range map[string]bool{"airlock-executor": true, "crun": true, "compile": false, "bash": false} {
		require.Equal(t, suspect, leakcheck.Suspects(leakcheck.ProcessInfo{Program: program}), program)
	}
	require.True(t, leakcheck.Suspects(leakcheck.ProcessInfo{Program: "bash", ForeignPIDs: true}))
}

func TestWaitGivesTeardownTime(t *testing.T) {
	dir := t.TempDir()
	o := leakcheck.Options{Dirs: []string{dir}, Marks: marked(dir)}
	before, err := leakcheck.Take(o)
	require.NoError(t, err)
	late := filepath.Join(dir, "late")
	require.NoError(t, os.WriteFile(late, nil, 0o600))
	time.AfterFunc(300*time.Millisecond, func() { _ = os.Remove(late) })
	_, diffs, err := leakcheck.Wait(t.Context(), before, o)
	require.NoError(t, err)
	require.Empty(t, only(diffs, leakcheck.File, dir))

	require.NoError(t, os.WriteFile(late, nil, 0o600))
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	_, diffs, err = leakcheck.Wait(ctx, before, o)
	require.ErrorIs(t, err, stop)
	require.Len(t, only(diffs, leakcheck.File, dir), 1)
}

// book records what a test's leak check reports.
type book struct {
	cleanups []func()
	errors   []string
}

func (b *book) Helper() {}
func (b *book) Errorf(format string, args ...any) {
	b.errors = append(b.errors, fmt.Sprintf(format, args...))
}
func (b *book) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (b *book) Cleanup(f func())                  { b.cleanups = append(b.cleanups, f) }

func (b *book) end() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

func TestCheckFailsItsTest(t *testing.T) {
	dir := t.TempDir()
	o := leakcheck.Options{Dirs: []string{dir}, Patience: 50 * time.Millisecond, Marks: marked(dir)}
	clean := &book{}
	leakcheck.CheckWith(clean, o)
	clean.end()
	require.Empty(t, clean.errors)

	leaking := &book{}
	leakcheck.CheckWith(leaking, o)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "forgotten"), nil, 0o600))
	leaking.end()
	require.Len(t, leaking.errors, 1)
	require.Contains(t, leaking.errors[0], "the leak check is not empty")
	require.Regexp(t, `file +│ new \(\+1\) │ `+filepath.Join(dir, "forgotten"), leaking.errors[0])

	plain := &book{}
	leakcheck.Check(plain, dir)
	require.Len(t, plain.cleanups, 1)
}

func TestPrint(t *testing.T) {
	dir := t.TempDir()
	o := leakcheck.Options{Dirs: []string{dir}}
	before, err := leakcheck.Take(o)
	require.NoError(t, err)
	var empty bytes.Buffer
	leakcheck.Print(&empty, before, before, before.Compare(before), nil)
	for _, kind := range []leakcheck.Kind{
		leakcheck.Mount, leakcheck.Link, leakcheck.NFTables, leakcheck.Cgroup, leakcheck.Process, leakcheck.Namespace, leakcheck.Loop, leakcheck.File,
	} {
		require.Regexp(t, string(kind)+` +│ +\d+ │ +\d+ │ +0 │ +0 │ +0 │`, empty.String())
	}
	require.Positive(t, before.Count(leakcheck.Mount))
	require.Positive(t, before.Count(leakcheck.Cgroup))
	require.Positive(t, before.Count(leakcheck.Namespace))

	var full bytes.Buffer
	leakcheck.Print(&full, before, before, []leakcheck.Diff{{Kind: leakcheck.File, Thing: "/x", Change: 1}, {Kind: leakcheck.Link, Thing: "eth0", Change: -1}}, nil)
	require.Contains(t, full.String(), "/x")
	require.Contains(t, full.String(), "missing (-1)")
}
