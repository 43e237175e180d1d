package control

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCertificatesAreKeptWhileTheyWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugin", "tls")
	require.NoError(t, EnsureTLS(dir))
	key := filepath.Join(dir, serverEnd+".key")
	info, err := os.Stat(key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	first, err := os.ReadFile(key)
	require.NoError(t, err)
	require.NoError(t, EnsureTLS(dir))
	again, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, first, again)

	require.NoError(t, os.WriteFile(filepath.Join(dir, clientEnd+".pem"), []byte("half a fi"), 0o600))
	require.NoError(t, EnsureTLS(dir))
	_, err = ClientTLS(dir)
	require.NoError(t, err)
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing else is left")
}

func TestArguments(t *testing.T) {
	want := Args{Config: "c", TLSDir: "t", Lock: "l"}
	got, err := ParseArgs(want.CommandLine())
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, broken := range [][]string{nil, {"--config", "c"}, append(want.CommandLine(), "x"), {"--nonsense"}} {
		_, err := ParseArgs(broken)
		require.Error(t, err, broken)
	}
	_, err = Begin(want)
	require.ErrorContains(t, err, `"airlock serve" starts it`)
}
