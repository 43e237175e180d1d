package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kind is a kind of thing that a ledger keeps.
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

// Options choose what a ledger looks at. The zero value looks at the whole host without any directory but the
// runner's temporary ones.
type Options struct {
	// Dirs are walked for files; missing ones are empty. The runner's custom-executor* directories below
	// os.TempDir are always among them.
	Dirs []string
	// Process chooses the processes that count beside the test's own descendants; nil means Suspects.
	// Kernel threads never count.
	Process func(ProcessInfo) bool
	// Ignore leaves out differences that are none of the caller's; nil ignores nothing.
	Ignore func(Diff) bool
	// Patience is how long Wait and Check give asynchronous teardown to finish; 0 means 10 s.
	Patience time.Duration
}

// things are what there is of one kind: an identity that stays the same as long as the thing does, how often
// it is there, and a detail for the reader.
type things map[string]thing

type thing struct {
	count  int
	detail string
}

func (t things) add(identity, detail string) {
	t[identity] = thing{count: t[identity].count + 1, detail: detail}
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
			errs = append(errs, fmt.Errorf("ledger: looking at kind %s: %w", look.kind, err))
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
			})
		}
	}
	return diffs
}

// Wait takes snapshots until one does not differ from before or the patience is over, and returns the last one
// with its differences. An error says that the host could not be looked at, or ctx ended.
func Wait(ctx context.Context, before Snapshot, o Options) (Snapshot, []Diff, error) {
	deadline := time.Now().Add(cmp.Or(o.Patience, 10*time.Second))
	for {
		after, err := Take(o)
		diffs := slices.DeleteFunc(before.Compare(after), func(d Diff) bool { return o.Ignore != nil && o.Ignore(d) })
		if err == nil && len(diffs) == 0 || time.Now().After(deadline) {
			return after, diffs, err
		}
		select {
		case <-ctx.Done():
			return after, diffs, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
