package jobs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/policy"
)

// picky is a runtime that refuses every image for a reason; none: it takes them all.
type picky struct {
	isolation.Runtime
	reason string
}

func (p picky) Fits(isolation.ImageConfig) (bool, string) { return p.reason == "", p.reason }

// TestImagesThatDoNotFit covers who is escalated: a job whose image does not share the host's kernel, to the stronger
// level and never to the weaker one.
func TestImagesThatDoNotFit(t *testing.T) {
	const old, tooNew = "the image's build is old", "the image's build is too new"
	process, hypervisor := isolation.ProcessLevel, isolation.HypervisorLevel
	for name, test := range map[string]struct {
		decided isolation.Level
		// refuses says why a level's runtime refuses the image; levels that it does not name have no runtime.
		refuses map[isolation.Level]string
		want    isolation.Level
		message string // in the job's log, or the error
	}{
		"fits":                     {process, map[isolation.Level]string{process: "", hypervisor: ""}, process, ""},
		"fits the stronger":        {hypervisor, map[isolation.Level]string{process: "", hypervisor: ""}, hypervisor, ""},
		"escalated":                {process, map[isolation.Level]string{process: old, hypervisor: ""}, hypervisor, "Raised to hypervisor isolation: " + old},
		"fits neither":             {process, map[isolation.Level]string{process: tooNew, hypervisor: tooNew}, 0, tooNew},
		"no stronger level here":   {process, map[isolation.Level]string{process: old}, 0, "no runtime for hypervisor isolation"},
		"never lowered":            {hypervisor, map[isolation.Level]string{process: "", hypervisor: tooNew}, 0, tooNew},
		"stronger alone, and fits": {hypervisor, map[isolation.Level]string{hypervisor: ""}, hypervisor, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(o *jobs.Options) {
				o.Settings.Policy = policy.Fixed{Level: test.decided, Network: "none", CacheScope: "job"}
				made := o.Runtimes[0]
				o.Runtimes = nil
				for level, reason := range test.refuses {
					o.Runtimes = append(o.Runtimes, picky{levelled{made, level}, reason})
				}
			})
			err := f.prepare()
			if test.want == 0 {
				require.ErrorContains(t, err, test.message)
				require.Equal(t, fault.Author, fault.ClassOf(err))
				return
			}
			require.NoError(t, err)
			require.Contains(t, f.log.String(), test.message)
			require.Contains(t, f.log.String(), "Airlock test: "+test.want.String()+" isolation")
			require.NoError(t, f.cleanup())
		})
	}
}

// levelled is a runtime that says it has another level.
type levelled struct {
	isolation.Runtime
	level isolation.Level
}

func (l levelled) Level() isolation.Level { return l.level }
func (l levelled) Name() string           { return l.Runtime.Name() + "-" + l.level.String() }
