package driver

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParentGone(t *testing.T) {
	if os.Getenv("AIRLOCK_TEST_CHILD") != "" {
		require.False(t, parentGone(os.Getppid()), "it waits for this process")
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestParentGone$")
	child.Env = append(os.Environ(), "AIRLOCK_TEST_CHILD=1")
	require.NoError(t, child.Start())
	require.True(t, parentGone(child.Process.Pid), "it is younger than this process")
	require.NoError(t, child.Wait())
	require.True(t, parentGone(child.Process.Pid))
}
