package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDeviationsHaveToDeviate(t *testing.T) {
	fails := subtest{"fails", func(t testing.TB) { require.Fail(t, "as known") }}
	failsAtItsEnd := subtest{"fails", func(t testing.TB) { t.Cleanup(func() { require.Fail(t, "as known") }) }}
	passes := subtest{"passes", func(testing.TB) {}}
	known := map[string]string{"fails": "why", "passes": "why"}

	for name, c := range map[string]struct {
		run  func(t testing.TB)
		fail bool
	}{
		"a failure":                     {func(t testing.TB) { fails.attempt(t, nil) }, true},
		"a pass":                        {func(t testing.TB) { passes.attempt(t, nil) }, false},
		"a known deviation":             {func(t testing.TB) { fails.attempt(t, known) }, false},
		"a known deviation at the end":  {func(t testing.TB) { failsAtItsEnd.attempt(t, known) }, false},
		"a known deviation that passes": {func(t testing.TB) { passes.attempt(t, known) }, true},
		"deviations of known subtests":  {func(t testing.TB) { checkDeviations(t, []subtest{fails, passes}, known) }, false},
		"a deviation of no subtest":     {func(t testing.TB) { checkDeviations(t, []subtest{fails}, known) }, true},
	} {
		require.Equal(t, c.fail, try(t, c.run).failed, name)
	}
}
