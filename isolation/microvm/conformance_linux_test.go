package microvm

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/conformance"
)

func TestConformance(t *testing.T) {
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv { return newBench(t).conformance() })
}
