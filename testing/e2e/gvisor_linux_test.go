package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/gitlabtest"
	"github.com/airlock-ci/airlock/testing/system"
)

// TestAWholeJobUnderGVisor: the scripts of a job meet gVisor's kernel, and not this host's. It has no network: Debian 12's
// runsc gives none on kernels as new as this (docs/security.md).
func TestAWholeJobUnderGVisor(t *testing.T) {
	b := start(t, system.Options{Config: "runtime = \"runsc\"\nnetwork_mode = \"none\"\n"})
	result := b.run(gitlabtest.Job{
		Script:      []string{"dmesg | grep -i gvisor", "echo kept >/builds/file", "exit 3"},
		AfterScript: []string{"cat /builds/file"},
	})
	require.Equal(t, gitlabtest.ScriptFailure, result.Reason, result.Log)
	require.Equal(t, 3, result.ExitCode)
	require.Contains(t, result.Log, "runsc")
	require.Contains(t, result.Log, "Starting gVisor")
	require.Contains(t, result.Log, "\nkept")
	require.NotContains(t, b.airlock("ps"), "al-")
}
