package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStaysSmall holds the promise of a small agent that is quick to start: every sandbox pays for it.
func TestStaysSmall(t *testing.T) {
	deps, err := exec.Command("go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	for _, dep := range strings.Fields(string(deps)) {
		for _, heavy := range []string{"net/http", "crypto/tls", "os/exec", "google.golang.org/", "github.com/rs/zerolog", "github.com/stretchr/"} {
			require.False(t, strings.HasPrefix(dep, heavy), "the agent depends on %s", dep)
		}
	}

	binary := filepath.Join(t.TempDir(), "airlock-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	info, err := os.Stat(binary)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(4<<20))

	program, err := exec.Command(binary, "-fd", "99").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(program), "descriptor 99 is no connection to the executor")
}
