package leakcheck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is a kind of thing that a leak check keeps.
type Kind string

// All kinds, in the order of reports.
const (
	Mount     Kind = "mount"
	Link      Kind = "link"
	NFTables  Kind = "nftables"
	Cgroup    Kind = "cgroup"
	Process   Kind = "process"
	Namespace Kind = "namespace"
	Loop      Kind = "loop device"
	File      Kind = "file"
)

// Options choose what a leak check looks at. The zero value looks at the whole host without any directory but the
// runner's temporary ones.
type Options struct {
	// Dirs are walked for files; missing ones are empty. The runner's custom-executor* directories below
	// os.TempDir are always among them.
	Dirs []string
	// Process chooses the processes that are looked at beside the caller's own descendants; nil means Suspects.
	// Kernel threads never are.
	Process func(ProcessInfo) bool
	// Marks tell what is judged: a difference with one of them in its name or detail, the caller's own descendants,
	// and what lies in Dirs. All else that changed is another program's, told and not judged. Nil judges everything.
	Marks *Marks
	// Patience is how long Wait and Check give asynchronous teardown to finish; 0 means 10 s.
	Patience time.Duration
}

// Marks are texts, each of which names what is under test: a directory, a bridge, a cgroup. They may be added after
// the first snapshot, because most are known only when it runs. The zero value has none. Safe for concurrent use.
type Marks struct {
	mu    sync.Mutex
	texts []string
}

// Add adds marks; empty ones, which everything would carry, are left out.
func (m *Marks) Add(texts ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts = append(m.texts, slices.DeleteFunc(slices.Clone(texts), func(t string) bool { return t == "" })...)
}

// on reports whether a difference carries one of the marks.
func (m *Marks) on(d Diff) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.texts, func(text string) bool {
		return strings.Contains(d.Thing, text) || strings.Contains(d.Detail, text)
	})
}

// things are what there is of one kind: an identity that stays the same as long as the thing does, how often
// it is there, and a detail, for the reader and for the marks in it.
type things map[string]thing

type thing struct {
	count  int
	detail string
	// own says that it is the caller's without any mark.
	own bool
}

func (t things) add(identity, detail string) { t.addOwn(identity, detail, false) }

func (t things) addOwn(identity, detail string, own bool) {
	t[identity] = thing{count: t[identity].count + 1, detail: detail, own: own || t[identity].own}
}

// Snapshot is what there was at one moment.
type Snapshot struct {
	kinds map[Kind]things
}

// Take writes down what there is now. An error says what could not be looked at.
func Take(o Options) (Snapshot, error) {
	if o.Process == nil {
		o.Process = Suspects
	}
	s := Snapshot{kinds: map[Kind]things{}}
	var errs []error
	for _, look := range looks() {
		found, err := look.at(o)
		if err != nil {
			errs = append(errs, fmt.Errorf("leakcheck: looking at kind %s: %w", look.kind, err))
		}
		s.kinds[look.kind] = found
	}
	return s, errors.Join(errs...)
}

type look struct {
	kind Kind
	at   func(Options) (things, error)
	// onlyNew says that a missing thing is no difference.
	onlyNew bool
}

func looks() []look {
	return []look{
		{Mount, mounts, false}, {Link, links, false}, {NFTables, ruleset, false}, {Cgroup, cgroups, false},
		{Process, processes, true}, {Namespace, namespaces, true}, {Loop, loops, false}, {File, files, false},
	}
}

// Count returns how many things of a kind there were.
func (s Snapshot) Count(kind Kind) int {
	n := 0
	for _, t := range s.kinds[kind] {
		n += t.count
	}
	return n
}

// Diff is one difference between two snapshots.
type Diff struct {
	Kind Kind
	// Thing identifies it: a mount point with its type, a path, a rule...
	Thing string
	// Detail says more where there is more to say: who holds a namespace, what backs a loop device.
	Detail string
	// Change is how many more (leaked) or fewer (negative, missing) there are than before.
	Change int
	// Own says that it is the caller's own, whatever marks it carries: a descendant's, or in a directory of Options.Dirs.
	Own bool
}

// Split parts differences into those that count, in their order, and those that other programs made.
func (o Options) Split(diffs []Diff) (counting, others []Diff) {
	for _, d := range diffs {
		if o.Marks == nil || d.Own || o.Marks.on(d) {
			counting = append(counting, d)
		} else {
			others = append(others, d)
		}
	}
	return counting, others
}

// Compare returns how after differs from s, in the order of the kinds. Nil is what everybody hopes for.
func (s Snapshot) Compare(after Snapshot) []Diff {
	var diffs []Diff
	for _, look := range looks() {
		old, now := s.kinds[look.kind], after.kinds[look.kind]
		identities := maps.Clone(old)
		if identities == nil {
			identities = things{}
		}
		maps.Copy(identities, now)
		for _, identity := range slices.Sorted(maps.Keys(identities)) {
			change := now[identity].count - old[identity].count
			if change == 0 || change < 0 && look.onlyNew {
				continue
			}
			diffs = append(diffs, Diff{
				Kind: look.kind, Thing: identity, Change: change,
				Detail: cmp.Or(now[identity].detail, old[identity].detail),
				Own:    now[identity].own || old[identity].own,
			})
		}
	}
	return diffs
}

// Wait takes snapshots until nothing that counts differs from before or the patience is over, and returns the last one
// with all its differences. An error says that the host could not be looked at, or ctx ended.
func Wait(ctx context.Context, before Snapshot, o Options) (Snapshot, []Diff, error) {
	deadline := time.Now().Add(cmp.Or(o.Patience, 10*time.Second))
	for {
		after, err := Take(o)
		diffs := before.Compare(after)
		counting, _ := o.Split(diffs)
		if err == nil && len(counting) == 0 || time.Now().After(deadline) {
			return after, diffs, err
		}
		select {
		case <-ctx.Done():
			return after, diffs, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
