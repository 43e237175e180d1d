package private

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/Microsoft/go-winio"
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
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, Seal(open))
	require.NoError(t, os.WriteFile(filepath.Join(open, "config.toml"), nil, 0o600))
	require.NoError(t, Seal(open), "once more, with something in it")
	require.NoError(t, CheckOwner(filepath.Join(open, "config.toml")))
	require.ErrorIs(t, CheckOwner(filepath.Join(open, "none")), os.ErrNotExist)
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

// TestDialPipe: a stranger who took the pipe's name first is asked who he is before he is told anything.
func TestDialPipe(t *testing.T) {
	listen := func(name, owner string) {
		t.Helper()
		// Only who may restore files may make things for others: an administrator, once he asks for it.
		require.NoError(t, winio.RunWithPrivilege("SeRestorePrivilege", func() error {
			listener, err := winio.ListenPipe(name, &winio.PipeConfig{SecurityDescriptor: owner + "D:(A;;GA;;;WD)"})
			if err != nil {
				return err
			}
			t.Cleanup(func() { require.NoError(t, listener.Close()) })
			go func() {
				for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
					_ = conn.Close()
				}
			}()
			return nil
		}))
	}
	const ours, theirs = `\\.\pipe\airlock-private-ours`, `\\.\pipe\airlock-private-theirs`
	listen(ours, "O:BA")
	conn, err := DialPipe(t.Context(), ours)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	listen(theirs, "O:BU")
	_, err = DialPipe(t.Context(), theirs)
	require.ErrorContains(t, err, theirs+" belongs to S-1-5-32-545")
	require.ErrorContains(t, err, "end the process that made it")
	_, err = DialPipe(t.Context(), `\\.\pipe\airlock-private-none`)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.EqualValues(t, 0x12019b, UsePipe)
}
