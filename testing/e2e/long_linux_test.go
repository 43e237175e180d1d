//go:build long

package e2e

import "testing"

// TestARealRunnersJobsInVirtualMachines runs the most telling kinds of jobs through GitLab Runner at the hypervisor level. By
// emulation that takes minutes, so it is not part of `make test`.
func TestARealRunnersJobsInVirtualMachines(t *testing.T) { aRealRunnersJobs(t, "hypervisor") }
