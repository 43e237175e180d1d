package driver

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParentGone(t *testing.T) {
	require.False(t, parentGone(os.Getppid()))
	child := exec.Command(os.Args[0], "-test.run=^$")
	require.NoError(t, child.Start())
	require.True(t, parentGone(child.Process.Pid), "it is younger than this process")
	require.NoError(t, child.Wait())
	require.True(t, parentGone(child.Process.Pid))
}
