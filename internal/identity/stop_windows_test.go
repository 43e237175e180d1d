package identity

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// TestAskedToStop asks a process to end that listens, and one that does not.
func TestAskedToStop(t *testing.T) {
	if listen := os.Getenv("AIRLOCK_TEST_STOP"); listen != "" {
		if listen == "yes" {
			asked, err := AwaitStop(t.Context())
			require.NoError(t, err)
			fmt.Println("ready")
			<-asked
			os.Exit(5)
		}
		fmt.Println("ready")
		time.Sleep(time.Hour) // select would be a deadlock, which ends the program
	}
	self, err := Self()
	require.NoError(t, err)
	name, err := stopEvent(self)
	require.NoError(t, err)
	stranger, err := windows.CreateEvent(nil, 1, 0, name)
	require.NoError(t, err)
	asked, err := AwaitStop(t.Context())
	require.NoError(t, err, "a stranger's event keeps nobody from serving")
	require.Nil(t, asked)
	require.NoError(t, windows.CloseHandle(stranger))
	for listen, want := range map[string]int{"yes": 5, "no": 1} {
		child := exec.Command(os.Args[0], "-test.run=^TestAskedToStop$")
		child.Env = append(os.Environ(), "AIRLOCK_TEST_STOP="+listen)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		buffer := make([]byte, 5)
		_, err = out.Read(buffer)
		require.NoError(t, err)
		process, err := Of(child.Process.Pid)
		require.NoError(t, err)
		handle, err := Open(process)
		require.NoError(t, err)
		require.NoError(t, handle.Terminate())
		select {
		case <-handle.Exited():
		case <-time.After(10 * time.Second):
			require.Fail(t, "it does not end")
		}
		handle.Close()
		_ = child.Wait()
		require.Equal(t, want, child.ProcessState.ExitCode(), "listening: %s", listen)
		_, err = Open(process)
		require.ErrorIs(t, err, ErrGone)
	}
}
