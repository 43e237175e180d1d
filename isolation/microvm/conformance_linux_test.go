package microvm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/conformance"
)

// TestConformance runs on clones, but for the sandboxes whose limits make them another shape: those are booted.
func TestConformance(t *testing.T) {
	bench := newBench(t)
	require.NoError(t, bench.newRuntime(t).Warm(t.Context(), bench.spec(t).Limits, false)) // kept on disk, for all that follow
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv { return newBench(t).conformance() })
}
