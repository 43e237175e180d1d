package client

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/Microsoft/hcsshim"
	"github.com/stretchr/testify/require"
)

// spawn starts a process whose stdout is read by the caller.
func spawn(t *testing.T, c hcsshim.Container, config hcsshim.ProcessConfig) (hcsshim.Process, *bufio.Reader) {
	t.Helper()
	config.CreateStdOutPipe = true
	p, err := c.CreateProcess(&config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	_, out, _, err := p.Stdio()
	require.NoError(t, err)
	t.Cleanup(func() { out.Close() })
	return p, bufio.NewReader(out)
}

func TestExitCodes(t *testing.T) {
	c := startArgon(t, "exit-codes")
	for _, want := range []int{0, 1, 42, 255, 256, 1067} {
		_, _, code := run(t, c, hcsshim.ProcessConfig{CommandLine: "cmd /c exit " + strconv.Itoa(want)}, "")
		require.Equal(t, want, code)
	}
}

func TestKill(t *testing.T) {
	c := startArgon(t, "kill")
	p, out := spawn(t, c, child("sleep"))
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "asleep\n", line)
	require.NoError(t, p.Kill())
	require.NoError(t, p.WaitTimeout(patience))
	code, err := p.ExitCode()
	require.NoError(t, err)
	require.NotZero(t, code)
	_, err = io.ReadAll(out)
	require.NoError(t, err)
	require.Error(t, p.Kill(), "it has ended")
}

// TestGrandchild: a process that has ended may leave one behind that holds its output; only Terminate ends it.
func TestGrandchild(t *testing.T) {
	c := startArgon(t, "grandchild")
	p, out := spawn(t, c, child("grandchild"))
	require.NoError(t, p.WaitTimeout(patience))
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "asleep\n", line)
	eof := make(chan error, 1)
	go func() { _, err := io.ReadAll(out); eof <- err }()
	select {
	case <-eof:
		t.Fatal("the output has ended while a grandchild holds it")
	case <-time.After(300 * time.Millisecond):
	}
	require.True(t, hcsshim.IsPending(c.Terminate()))
	require.NoError(t, c.WaitTimeout(patience))
	select {
	case err := <-eof:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the output does not end with its container")
	}
}

func TestTerminateWhileRunning(t *testing.T) {
	c := startXenon(t, "terminate")
	p, out := spawn(t, c, child("sleep"))
	_, err := out.ReadString('\n')
	require.NoError(t, err)
	require.True(t, hcsshim.IsPending(c.Terminate()))
	require.NoError(t, c.WaitTimeout(patience))
	require.NoError(t, p.WaitTimeout(patience))
	code, err := p.ExitCode()
	require.NoError(t, err)
	require.Equal(t, 1067, code)
}

func TestShutdown(t *testing.T) {
	c := startArgon(t, "shutdown")
	require.True(t, hcsshim.IsPending(c.Shutdown()))
	require.NoError(t, c.WaitTimeout(patience))
}

func TestProcessErrors(t *testing.T) {
	c := startArgon(t, "process-errors")
	_, err := c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "no-such-program.exe"})
	require.ErrorContains(t, err, "0x2")
	_, err = c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd", WorkingDirectory: `C:\no\such\directory`})
	require.Error(t, err)
	_, err = c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd", User: "nobody"})
	require.Error(t, err)
}

func TestSeenByOthers(t *testing.T) {
	c := startArgon(t, "seen")
	spawn(t, c, child("sleep"))
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"airlock"}})
	require.NoError(t, err)
	require.Len(t, systems, 1)
	require.Equal(t, []any{"seen", "Running", "airlock", false}, []any{systems[0].ID, systems[0].State, systems[0].Owner, systems[0].IsRuntimeTemplate})
	systems, err = hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"somebody"}})
	require.NoError(t, err)
	require.Empty(t, systems)

	other, err := hcsshim.OpenContainer("seen")
	require.NoError(t, err)
	list, err := other.ProcessList()
	require.NoError(t, err)
	require.Len(t, list, 1)
	_, err = other.Statistics()
	require.NoError(t, err)
	require.NoError(t, other.Pause())
	require.NoError(t, other.Resume())
	require.True(t, hcsshim.IsPending(other.Terminate()))
	require.NoError(t, other.WaitTimeout(patience))
	require.NoError(t, other.Close())
	_, err = hcsshim.OpenContainer("seen")
	require.True(t, hcsshim.IsNotExist(err), "%v", err)
}

// TestDiscard: what a container wrote is gone with its scratch, and its base is as it was. Isolated guests alone show it.
func TestDiscard(t *testing.T) {
	for _, start := range []func(*testing.T, string) hcsshim.Container{startArgon, startXenon} {
		t.Run("", func(t *testing.T) {
			t.Run("first", func(t *testing.T) {
				c := start(t, "discard-1")
				out, _, code := run(t, c, child(`read C:\image\both.txt`), "")
				require.Equal(t, []any{"upper", 0}, []any{out, code})
				_, _, code = run(t, c, child(`read C:\image\base.txt`), "")
				require.Equal(t, 1, code, "an upper layer has removed it")
				out, _, code = run(t, c, child(`write C:\image\both.txt`), "")
				require.Zero(t, code, out)
				out, _, _ = run(t, c, child(`read C:\image\both.txt`), "")
				require.Equal(t, "written", out)
				_, _, code = run(t, c, child(`write C:\tools\x`), "")
				require.Equal(t, 1, code, "it is read-only")
			})
			c := start(t, "discard-2")
			out, _, _ := run(t, c, child(`read C:\image\both.txt`), "")
			require.Equal(t, "upper", out)
		})
	}
	text, err := os.ReadFile(home + `\upper\Files\image\both.txt`)
	require.NoError(t, err)
	require.Equal(t, "upper", string(text))
}

// TestParallel: containers beside each other get their own output.
func TestParallel(t *testing.T) {
	image(t)
	for i := range 6 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			start := startArgon
			if i%2 == 1 {
				start = startXenon
			}
			c := start(t, "parallel-"+strconv.Itoa(i))
			for range 3 {
				out, _, code := run(t, c, cmd("echo this is "+strconv.Itoa(i)), "")
				require.Equal(t, []any{"this is " + strconv.Itoa(i) + "\n", 0}, []any{out, code})
			}
		})
	}
}

// TestMuchOutput: a writer is held back while nobody reads, and nothing is lost.
func TestMuchOutput(t *testing.T) {
	c := startArgon(t, "much")
	_, out := spawn(t, c, child("much"))
	time.Sleep(200 * time.Millisecond)
	text, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Len(t, text, muchOutput)
}
