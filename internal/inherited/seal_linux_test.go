package inherited

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSeal: a child has what it is given, and nothing that happened to be open.
func TestSeal(t *testing.T) {
	for name, seal := range map[string]func() error{"at once": Seal, "one by one": sealOneByOne} {
		t.Run(name, func(t *testing.T) {
			stray, err := unix.Open("/dev/zero", unix.O_RDONLY, 0)
			require.NoError(t, err)
			defer func() { require.NoError(t, unix.Close(stray)) }()
			given, err := os.Open("/dev/full")
			require.NoError(t, err)
			defer func() { require.NoError(t, given.Close()) }()
			list := func() string {
				command := exec.Command("sh", "-c", "ls -l /proc/$$/fd")
				command.ExtraFiles = []*os.File{given}
				out, err := command.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Contains(t, string(out), "3 -> /dev/full")
				return string(out)
			}
			require.Contains(t, list(), "/dev/zero", "without, it would reach the child")
			require.NoError(t, seal())
			require.NotContains(t, list(), "/dev/zero")
			_, err = unix.FcntlInt(uintptr(stray), unix.F_GETFD, 0)
			require.NoError(t, err, "it stays open here")
		})
	}
}
