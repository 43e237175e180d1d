package volume_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/cache/volume"
)

func TestCacheVolumes(t *testing.T) {
	volumes := t.TempDir()
	seen := map[string]string{}
	for _, scope := range []string{"group/project-7/protected", "group/project-7/unprotected", "../../etc", "a/b", "a-b", strings.Repeat("x", 5000)} {
		dir, err := volume.Open(volumes, scope)
		require.NoError(t, err)
		require.Empty(t, seen[dir], "%q and %q share", scope, seen[dir])
		seen[dir] = scope
		info, err := os.Stat(dir)
		require.NoError(t, err)
		require.Equal(t, "drwxr-xr-x", info.Mode().String())
		require.NoError(t, os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600))
		again, err := volume.Open(volumes, scope)
		require.NoError(t, err)
		require.Equal(t, dir, again)
		require.FileExists(t, filepath.Join(again, "kept"))
	}
	parents := map[string]bool{}
	for dir := range seen {
		parents[filepath.Dir(dir)] = true
	}
	require.Len(t, parents, 1, "none leads elsewhere: %s", fmt.Sprint(seen))
	_, err := volume.Open(volumes, "")
	require.Error(t, err)
}
