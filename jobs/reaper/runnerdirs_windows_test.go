package reaper

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRunnerDirs(t *testing.T) {
	home := t.TempDir()
	make := func(name string) string {
		dir := filepath.Join(home, name)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "response.json"), []byte("{}"), 0o600))
		return dir
	}
	r := NewRunnerDirs()
	theirs, other := make("custom-executor123"), make("documents")
	require.ErrorIs(t, r.Destroy(t.Context(), theirs), ErrNotYet)
	r.patience = 0
	require.NoError(t, r.Destroy(t.Context(), theirs))
	require.NoDirExists(t, theirs)
	require.NoError(t, r.Destroy(t.Context(), theirs), "once more")
	require.NoError(t, os.Rename(make("custom-executor5"), theirs+".gone"))
	require.NoError(t, r.Destroy(t.Context(), theirs), "where the last time ended half-way")
	require.NoDirExists(t, theirs+".gone")
	require.NoError(t, r.Destroy(t.Context(), other))
	require.DirExists(t, other, "what has another name is not a runner's")
	require.NoError(t, r.Destroy(t.Context(), "custom-executor-relative"))
}
