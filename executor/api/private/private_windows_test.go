package private

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

func TestMakeDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "above", "keys")
	require.NoError(t, MakeDir(dir))
	require.NoError(t, MakeDir(dir), "once more")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte("x"), 0o600))
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, MakeDir(file))
	for text, want := range map[string]bool{"SY": true, "BA": true, "BU": false, "WD": false} {
		descriptor, err := windows.SecurityDescriptorFromString("O:" + text)
		require.NoError(t, err)
		owner, _, err := descriptor.Owner()
		require.NoError(t, err)
		trusted, err := isTrusted(owner)
		require.NoError(t, err)
		require.Equal(t, want, trusted, text)
	}
}
