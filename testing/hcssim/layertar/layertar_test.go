package layertar

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// entries returns the names in a layer and the content of its files.
func entries(t *testing.T, layer []byte) (names []string, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		require.NoError(t, err)
		names = append(names, header.Name)
		if header.Typeflag == tar.TypeReg {
			text, err := io.ReadAll(r)
			require.NoError(t, err)
			files[header.Name] = string(text)
		}
	}
}

func TestUpper(t *testing.T) {
	names, files := entries(t, Upper(map[string]string{"a/b.txt": "b", "a/a.txt": "a"}, "c/gone.txt"))
	require.Equal(t, []string{"Files", "Files/a", "Files/a/a.txt", "Files/a/b.txt", "Files/c/.wh.gone.txt"}, names)
	require.Equal(t, "a", files["Files/a/a.txt"])
}

func TestBase(t *testing.T) {
	names, files := entries(t, Base(BaseOptions{Build: 17763}))
	require.Contains(t, files["Files/Windows/System32/config/SOFTWARE"], "CurrentBuild 17763")
	require.NotContains(t, names, "UtilityVM")
	names, _ = entries(t, Base(BaseOptions{UtilityVM: true}))
	require.Contains(t, names, "UtilityVM/Files", "hcsshim looks for this very name")
	seen := map[string]bool{}
	for _, name := range names {
		require.False(t, seen[name], "%s is there twice", name)
		seen[name] = true
	}
}

func TestWithUtilityVM(t *testing.T) {
	names, _ := entries(t, WithUtilityVM(nil, map[string]string{"new": "x"}))
	require.Equal(t, []string{"Files", "UtilityVM", "UtilityVM/Files", "UtilityVM/Files/new"}, names)
}
