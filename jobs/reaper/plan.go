package reaper

import (
	"cmp"
	"slices"

	"github.com/airlock-ci/airlock/jobs"
)

// Found is one thing that a Resource found in reality: its kind and its name, a sandbox id except for the
// runner's directories, which are named by their path.
type Found struct {
	Kind, Name string
}

// Step is one thing to remove. The steps of one sandbox follow each other in the order in which they must
// happen, and each waits for the success of those before it.
type Step struct {
	// Kind is the Resource's; kindRecord forgets the record.
	Kind string
	Name string
	// Sandbox is the id that the thing belonged to; empty for a runner's directory that no record names.
	Sandbox string
	// Seen says that it was found in reality; else only the journal names it, and it is probably gone.
	Seen bool
}

// kindRecord is the journal's own record, always the last step of its sandbox.
const kindRecord = "record"

// undoOrder lists the kinds as they are removed: acquisition reversed, and the runner's directory, which the
// job did not make, last.
func undoOrder() []string {
	return []string{
		string(jobs.EffectContainer), string(jobs.EffectNetwork), string(jobs.EffectScratch),
		string(jobs.EffectLease), string(jobs.EffectRunnerDir), kindRecord,
	}
}

// Plan returns what to remove: everything that was found or is recorded and that belongs to none of the living
// sandboxes. Recorded sandboxes come first, oldest first, then those that were found only, by name.
func Plan(records []jobs.Record, found []Found, live map[string]bool) []Step {
	seen := map[Found]bool{}
	for _, f := range found {
		seen[f] = true
	}
	owned := map[string]bool{} // names that a living sandbox owns
	planned := map[Found]bool{}
	for _, rec := range records {
		if live[rec.ID] && rec.RunnerDir != "" {
			owned[rec.RunnerDir] = true
		}
	}
	for id := range live {
		owned[id] = true
	}

	var steps []Step
	for _, rec := range records {
		if live[rec.ID] {
			continue
		}
		for _, step := range stepsOf(rec, seen) {
			thing := Found{step.Kind, step.Name}
			if step.Kind == string(jobs.EffectRunnerDir) && owned[step.Name] || planned[thing] {
				continue
			}
			planned[thing] = true
			steps = append(steps, step)
		}
	}
	return append(steps, unrecorded(found, owned, planned)...)
}

// stepsOf returns the steps of one record: its recorded effects, whether seen or not, and what was seen under
// its name, in undo order; at last the record.
func stepsOf(rec jobs.Record, seen map[Found]bool) []Step {
	var steps []Step
	for _, kind := range undoOrder() {
		name, recorded := rec.ID, slices.Contains(rec.Effects, jobs.Effect(kind))
		switch kind {
		case kindRecord:
			recorded = true
		case string(jobs.EffectRunnerDir):
			name, recorded = rec.RunnerDir, rec.RunnerDir != ""
		}
		isSeen := seen[Found{kind, name}] || kind == kindRecord
		if recorded || isSeen {
			steps = append(steps, Step{Kind: kind, Name: name, Sandbox: rec.ID, Seen: isSeen})
		}
	}
	return steps
}

// unrecorded returns the steps for what was found and is in no record, grouped by name.
func unrecorded(found []Found, owned map[string]bool, planned map[Found]bool) []Step {
	var steps []Step
	for _, f := range found {
		if owned[f.Name] || planned[f] {
			continue
		}
		planned[f] = true
		step := Step{Kind: f.Kind, Name: f.Name, Sandbox: f.Name, Seen: true}
		if f.Kind == string(jobs.EffectRunnerDir) {
			step.Sandbox = ""
		}
		steps = append(steps, step)
	}
	order := undoOrder()
	slices.SortStableFunc(steps, func(a, b Step) int {
		return cmp.Or(cmp.Compare(a.Sandbox, b.Sandbox),
			cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return steps
}
