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

// TestConformanceRunsc runs the whole suite, as the kernel is another one: what the agent alone passes elsewhere tells here, too.
func TestConformanceRunsc(t *testing.T) {
	const noAmbient, noPipes = "gVisor has no ambient capabilities", "gVisor's pipes cannot be given to a user"
	conformance.TestRuntime(t, func(t testing.TB) conformance.RuntimeEnv {
		env := newBench(t, "runsc").conformance()
		env.Quick = false
		env.Deviations = map[string]string{
			"caches of several users": noAmbient,
			"ping":                    noAmbient,
			"streams by name":         noPipes,
			"memory limit":            "the limit is gVisor's, which ends with all that runs in it",
			"process limit":           "gVisor bounds no processes, and its own threads count on the host",
			"helper stages":           "the helper root has the author's /dev, which a job that is root can change: gVisor writes to no device on a read-only mount",
			"limits of each process":  "gVisor has no /proc/sys/kernel/core_pattern",
			"nothing that a job does stops the next stages": "gVisor lets root kill process 1",
		}
		return env
	})
}
