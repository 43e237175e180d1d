package oci

import (
	"testing"

	"github.com/airlock-ci/airlock/testing/conformance"
)

func TestConformanceCrun(t *testing.T) {
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv { return newBench(t, "crun").conformance() })
}

// TestConformanceRunc is for hosts without crun.
func TestConformanceRunc(t *testing.T) {
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv {
		env := newBench(t, "runc").conformance()
		env.Core, env.Quick = true, false
		return env
	})
}
