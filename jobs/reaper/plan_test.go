package reaper_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/reaper"
)

const dir1, dir2 = "/tmp/custom-executor1", "/tmp/custom-executor2"

func allEffects() []jobs.Effect {
	return []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer}
}

func TestPlan(t *testing.T) {
	seen := func(kind, name, sandbox string) reaper.Step {
		return reaper.Step{Kind: kind, Name: name, Sandbox: sandbox, Seen: true}
	}
	unseen := func(kind, name, sandbox string) reaper.Step {
		return reaper.Step{Kind: kind, Name: name, Sandbox: sandbox}
	}
	cases := []struct {
		name    string
		records []jobs.Record
		found   []reaper.Found
		live    []string
		want    []reaper.Step
	}{
		{name: "nothing"},
		{
			name:    "a living sandbox is left alone, with its runner's directory",
			records: []jobs.Record{{ID: "al-a", RunnerDir: dir1, Effects: allEffects()}},
			found:   []reaper.Found{{"sandbox", "al-a"}, {"network", "al-a"}, {"scratch", "al-a"}, {"runner-dir", dir1}},
			live:    []string{"al-a"},
		},
		{
			name:  "one that lives but is not in the journal yet is left alone",
			found: []reaper.Found{{"sandbox", "al-a"}},
			live:  []string{"al-a"},
		},
		{
			name:    "a dead one is undone in reverse, then forgotten",
			records: []jobs.Record{{ID: "al-a", RunnerDir: dir1, Effects: allEffects()}},
			found:   []reaper.Found{{"lease", "al-a"}, {"scratch", "al-a"}, {"network", "al-a"}, {"sandbox", "al-a"}, {"runner-dir", dir1}},
			want: []reaper.Step{
				seen("sandbox", "al-a", "al-a"), seen("network", "al-a", "al-a"), seen("scratch", "al-a", "al-a"),
				seen("lease", "al-a", "al-a"), seen("runner-dir", dir1, "al-a"), seen("record", "al-a", "al-a"),
			},
		},
		{
			name:    "recorded effects are undone unseen: a half-made thing may not show",
			records: []jobs.Record{{ID: "al-a", Effects: []jobs.Effect{jobs.EffectLease, jobs.EffectScratch}}},
			want:    []reaper.Step{unseen("scratch", "al-a", "al-a"), unseen("lease", "al-a", "al-a"), seen("record", "al-a", "al-a")},
		},
		{
			name:    "what is seen goes although the record does not say so",
			records: []jobs.Record{{ID: "al-a"}},
			found:   []reaper.Found{{"network", "al-a"}},
			want:    []reaper.Step{seen("network", "al-a", "al-a"), seen("record", "al-a", "al-a")},
		},
		{
			name:  "without any record, by name",
			found: []reaper.Found{{"scratch", "al-b"}, {"scratch", "al-a"}, {"sandbox", "al-b"}, {"scratch", "al-b"}},
			want:  []reaper.Step{seen("scratch", "al-a", "al-a"), seen("sandbox", "al-b", "al-b"), seen("scratch", "al-b", "al-b")},
		},
		{
			name:    "records first, oldest first",
			records: []jobs.Record{{ID: "al-z"}, {ID: "al-m"}},
			found:   []reaper.Found{{"scratch", "al-a"}},
			want:    []reaper.Step{seen("record", "al-z", "al-z"), seen("record", "al-m", "al-m"), seen("scratch", "al-a", "al-a")},
		},
		{
			name:    "the dead beside the living",
			records: []jobs.Record{{ID: "al-a", RunnerDir: dir1}, {ID: "al-b", RunnerDir: dir2}},
			found:   []reaper.Found{{"sandbox", "al-a"}, {"sandbox", "al-b"}, {"runner-dir", dir1}, {"runner-dir", dir2}},
			live:    []string{"al-b"},
			want:    []reaper.Step{seen("sandbox", "al-a", "al-a"), seen("runner-dir", dir1, "al-a"), seen("record", "al-a", "al-a")},
		},
		{
			name:    "a runner's directory that a living job uses, too, stays",
			records: []jobs.Record{{ID: "al-a", RunnerDir: dir1}, {ID: "al-b", RunnerDir: dir1}},
			found:   []reaper.Found{{"runner-dir", dir1}},
			live:    []string{"al-b"},
			want:    []reaper.Step{seen("record", "al-a", "al-a")},
		},
		{
			name:  "a runner's directory of nobody",
			found: []reaper.Found{{"runner-dir", dir1}},
			live:  []string{"al-b"},
			want:  []reaper.Step{seen("runner-dir", dir1, "")},
		},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			live := map[string]bool{}
			for _, id := range tc.live {
				live[id] = true
			}
			require.Equal(t, tc.want, reaper.Plan(tc.records, tc.found, live))
		})
	}
}
