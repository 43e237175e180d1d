package leakcheck

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// TB is what Check needs of a testing.TB.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(f func())
}

// Check opens a leak check for a test: when the test has ended, clean-ups registered later included, the host must
// be as it is now, the files below dirs included. Call it before anything is started, on a host that does nothing else.
func Check(t TB, dirs ...string) {
	t.Helper()
	CheckWith(t, Options{Dirs: dirs})
}

// CheckWith is Check with all options; with Marks, what other programs change meanwhile does not fail the test.
func CheckWith(t TB, o Options) {
	t.Helper()
	before, err := Take(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		_, diffs, err := Wait(context.Background(), before, o)
		if err != nil {
			t.Errorf("%v", err)
		}
		if counting, _ := o.Split(diffs); len(counting) > 0 {
			var b strings.Builder
			PrintDiffs(&b, counting)
			t.Errorf("the leak check is not empty:\n%s", b.String())
		}
	})
}

// Print writes how many things of each kind there were before and are after, and the differences that count. What other
// programs changed meanwhile is in a column and a table of its own.
func Print(w io.Writer, before, after Snapshot, counting, others []Diff) {
	t := newTable(w)
	t.AppendHeader(table.Row{"kind", "before", "after", "left over", "missing", "others' changes"})
	for _, look := range looks() {
		leaked, missing := sum(look.kind, counting)
		came, went := sum(look.kind, others)
		t.AppendRow(table.Row{look.kind, before.Count(look.kind), after.Count(look.kind), leaked, missing, came + went})
	}
	t.Render()
	if len(counting) > 0 {
		PrintDiffs(w, counting)
	}
	if len(others) > 0 {
		_, _ = fmt.Fprintln(w, "What other programs changed meanwhile, and nobody is blamed for:")
		PrintDiffs(w, others)
	}
}

// sum counts how many things of a kind came and how many went.
func sum(kind Kind, diffs []Diff) (came, went int) {
	for _, d := range diffs {
		if d.Kind == kind {
			came += max(d.Change, 0)
			went -= min(d.Change, 0)
		}
	}
	return came, went
}

// PrintDiffs writes the differences, one a line.
func PrintDiffs(w io.Writer, diffs []Diff) {
	t := newTable(w)
	t.AppendHeader(table.Row{"kind", "change", "thing", "detail"})
	for _, d := range diffs {
		change := fmt.Sprintf("new (%+d)", d.Change)
		if d.Change < 0 {
			change = fmt.Sprintf("missing (%+d)", d.Change)
		}
		t.AppendRow(table.Row{d.Kind, change, d.Thing, d.Detail})
	}
	t.Render()
}

func newTable(w io.Writer) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	return t
}
