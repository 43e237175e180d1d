package failpoint_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/failpoint"
)

// The environment is read once a process, so each case is a process of its own: this test, executed again.
func TestMain(m *testing.M) {
	if os.Getenv("FAILPOINT_CHILD") == "" {
		os.Exit(m.Run())
	}
	start := time.Now()
	err := failpoint.Hit("step")
	fmt.Printf("error %v, waited %t", err != nil, time.Since(start) > 20*time.Millisecond)
}

func hit(value string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1", failpoint.Variable+"="+value)
	out, err := cmd.Output()
	return string(out), err
}

func requireKilled(t *testing.T, err error) {
	t.Helper()
	var status *exec.ExitError
	require.True(t, errors.As(err, &status), "%v", err)
	require.Equal(t, syscall.SIGKILL, status.Sys().(syscall.WaitStatus).Signal())
}

func TestActions(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	for value, want := range map[string]string{
		"":                                   "error false, waited false",
		"other=kill":                         "error false, waited false",
		"step=error":                         "error true, waited false",
		"other=kill,step=sleep:40ms":         "error false, waited true",
		"step=nonsense":                      "error false, waited false",
		"step=kill-once:/nonexistent/marker": "error false, waited false",
	} {
		out, err := hit(value)
		require.NoError(t, err, value)
		require.Equal(t, want, out, value)
	}
	_, err := hit("step=kill")
	requireKilled(t, err)
	_, err = hit("step=kill-once:" + marker)
	requireKilled(t, err)
	out, err := hit("step=kill-once:" + marker)
	require.NoError(t, err, "the second time it goes on")
	require.Equal(t, "error false, waited false", out)
}
