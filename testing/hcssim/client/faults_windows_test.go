package client

import (
	"os"
	"strconv"
	"testing"
	"time"

	winio "github.com/Microsoft/go-winio"
	"github.com/Microsoft/go-winio/vhd"
	"github.com/Microsoft/hcsshim"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// The tests of this file show how hcsshim lets a client see what goes wrong. Those of package hcssim set the faults.

func TestFaultActivate(t *testing.T) {
	chain := image(t)
	di := scratch(t, "busy", chain)
	want, err := strconv.ParseUint(os.Getenv("WANT"), 0, 32)
	require.NoError(t, err)
	require.Equal(t, windows.Errno(want), hcsError(t, hcsshim.ActivateLayer(di, "busy")))
	mount(t, di, "busy", chain)
}

func TestFaultPrepare(t *testing.T) {
	chain := image(t)
	di := scratch(t, "slow", chain)
	require.NoError(t, hcsshim.ActivateLayer(di, "slow"))
	require.Equal(t, windows.ERROR_TIMEOUT, hcsError(t, hcsshim.PrepareLayer(di, "slow", chain)))
	require.NoError(t, hcsshim.DeactivateLayer(di, "slow"))
	mount(t, di, "slow", chain)
}

// create makes a Hyper-V container that is not started.
func create(t *testing.T, id string) hcsshim.Container {
	t.Helper()
	chain := image(t)
	scratch(t, id, chain)
	c, err := hcsshim.CreateContainer(id, xenon(t, id, chain))
	require.NoError(t, err)
	return c
}

func TestFaultCreate(t *testing.T) {
	chain := image(t)
	scratch(t, "c", chain)
	_, err := hcsshim.CreateContainer("c", xenon(t, "c", chain))
	require.Error(t, err)
	t.Log(err)
}

// TestFaultStartLost: the notification does not come. hcsshim leaves the system as it is.
func TestFaultStartLost(t *testing.T) {
	c := create(t, "lost")
	err := c.Start()
	require.True(t, hcsshim.IsTimeout(err), "%v", err)
	terminate(t, c)
}

// TestFaultStartHangs: the call itself does not return.
func TestFaultStartHangs(t *testing.T) {
	c := create(t, "hangs")
	require.ErrorContains(t, c.Start(), "deadline exceeded")
	terminate(t, c)
}

func TestFaultStartFails(t *testing.T) {
	c := create(t, "fails")
	require.ErrorContains(t, c.Start(), "0xc0370106")
	terminate(t, c)
}

// TestFaultTerminateHangs: the end does not come, and the next try brings it.
func TestFaultTerminateHangs(t *testing.T) {
	c := create(t, "stuck")
	require.NoError(t, c.Start())
	require.True(t, hcsshim.IsPending(c.Terminate()))
	err := c.WaitTimeout(300 * time.Millisecond)
	require.True(t, hcsshim.IsTimeout(err), "%v", err)
	terminate(t, c)
}

func TestFaultCreateProcess(t *testing.T) {
	c := create(t, "no-process")
	require.NoError(t, c.Start())
	_, err := c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd"})
	require.Error(t, err)
	terminate(t, c)
}

// TestFaultRegister: a callback that is refused leaves nothing. Giving the process up, hcsshim unregisters the callback
// number 0 (internal/hcs/process.go, Close), whosever it is: here it is that of a handle on which nothing waits.
func TestFaultRegister(t *testing.T) {
	first := create(t, "no-callback")
	require.NoError(t, first.Start())
	c, err := hcsshim.OpenContainer("no-callback")
	require.NoError(t, err)
	_, err = c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd"})
	require.Error(t, err)
	terminate(t, c)
	require.NoError(t, first.Close())
}

func TestFaultDestroy(t *testing.T) {
	chain := image(t)
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.NoError(t, hcsshim.CreateScratchLayer(di, "denied", "", chain))
	for range 3 {
		require.Equal(t, windows.ERROR_ACCESS_DENIED, hcsError(t, hcsshim.DestroyLayer(di, "denied")))
	}
	require.NoError(t, hcsshim.DestroyLayer(di, "denied"))
}

// TestFaultDetach: a mount that is left over goes with the disk, and the folder can be renamed.
func TestFaultDetach(t *testing.T) {
	chain := image(t)
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.NoError(t, hcsshim.CreateScratchLayer(di, "leftover", "", chain))
	require.NoError(t, hcsshim.ActivateLayer(di, "leftover"))
	require.ErrorIs(t, os.Rename(home+`\leftover`, home+`\leftover-removing`), windows.ERROR_ACCESS_DENIED)
	require.NoError(t, vhd.DetachVhd(home+`\leftover\sandbox.vhdx`))
	require.NoError(t, os.Rename(home+`\leftover`, home+`\leftover-removing`))
	require.NoError(t, hcsshim.DestroyLayer(di, "leftover-removing"))
}

// TestFaultTemplate: a Hyper-V container that was not told to skip it leaves a template that uses the base.
func TestFaultTemplate(t *testing.T) {
	chain := image(t)
	t.Run("container", func(t *testing.T) {
		scratch(t, "templated", chain)
		config := xenon(t, "templated", chain)
		config.HvRuntime.SkipTemplate = false
		start(t, "templated", config)
	})
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.Equal(t, windows.ERROR_SHARING_VIOLATION, hcsError(t, hcsshim.DestroyLayer(di, "base")))
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.NoError(t, err)
	require.Len(t, systems, 1)
	require.True(t, systems[0].IsRuntimeTemplate)
	require.Equal(t, chain[1]+`\UtilityVM`, systems[0].RuntimeImagePath)
	template, err := hcsshim.OpenContainer(systems[0].ID)
	require.NoError(t, err)
	terminate(t, template)
	require.NoError(t, hcsshim.DestroyLayer(di, "upper"))
	require.NoError(t, hcsshim.DestroyLayer(di, "base"))
}

// TestFaultServiceStops: a program that waits hears that the service is gone. TestFaultServiceBack cleans up later.
func TestFaultServiceStops(t *testing.T) {
	chain := image(t)
	require.NoError(t, hcsshim.CreateScratchLayer(hcsshim.DriverInfo{HomeDir: home, Flavour: 1}, "orphan", "", chain))
	c, err := hcsshim.CreateContainer("orphan", xenon(t, "orphan", chain))
	require.NoError(t, err)
	require.NoError(t, c.Start())
	_, err = hcsshim.GetContainers(hcsshim.ComputeSystemQuery{}) // it stops before this
	require.ErrorIs(t, unwrap(err), windows.RPC_S_SERVER_UNAVAILABLE)
	require.Equal(t, hcsshim.ErrUnexpectedProcessAbort, unwrap(c.WaitTimeout(patience)))
	require.ErrorIs(t, unwrap(c.Close()), windows.RPC_S_SERVER_UNAVAILABLE, "it does not wait for the callback's end")
}

func TestFaultServiceBack(t *testing.T) {
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.NoError(t, err)
	require.Empty(t, systems)
	require.NoError(t, hcsshim.DestroyLayer(hcsshim.DriverInfo{HomeDir: home, Flavour: 1}, "orphan"))
}

// TestFaultCrash: the utility VM dies while a process runs.
func TestFaultCrash(t *testing.T) {
	c := create(t, "crash")
	require.NoError(t, c.Start())
	p, _ := spawn(t, c, child("sleep"))
	require.ErrorContains(t, c.WaitTimeout(patience), "0xc0370106")
	require.NoError(t, p.WaitTimeout(patience))
	require.NoError(t, c.Close())
}

func TestFaultMissing(t *testing.T) {
	_, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.ErrorContains(t, err, os.Getenv("WANT"))
}

func TestFaultPrivileges(t *testing.T) {
	err := hcsshim.ProcessBaseLayer(home)
	require.ErrorIs(t, err, windows.ERROR_PRIVILEGE_NOT_HELD)
	err = winio.RunWithPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege}, func() error { return hcsshim.ProcessBaseLayer(home) })
	require.ErrorIs(t, err, windows.ERROR_PATH_NOT_FOUND, "there are no files")
}

// TestFaultHandle ends without closing what it has of a process.
func TestFaultHandle(t *testing.T) {
	c := startArgon(t, "unclosed")
	p, err := c.CreateProcess(&hcsshim.ProcessConfig{CommandLine: "cmd /c exit 0"})
	require.NoError(t, err)
	require.NoError(t, p.WaitTimeout(patience))
}

// TestFaultDeath dies in the middle; TestFaultRecovery finds what is left, as the process that is started next.
func TestFaultDeath(t *testing.T) {
	startArgon(t, "dead")
	t.Fatal("it lives on")
}

func TestFaultRecovery(t *testing.T) {
	require.Eventually(t, func() bool {
		systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"airlock"}})
		require.NoError(t, err)
		return len(systems) == 0
	}, patience, 10*time.Millisecond, "TerminateOnLastHandleClosed")
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.NoError(t, hcsshim.UnprepareLayer(di, "dead"))
	require.NoError(t, hcsshim.DeactivateLayer(di, "dead"))
	require.NoError(t, os.Rename(home+`\dead`, home+`\dead-removing`))
	require.NoError(t, hcsshim.DestroyLayer(di, "dead-removing"))
}

// TestFaultReboot: the mounts are gone with the machine's restart, the folder is there.
func TestFaultReboot(t *testing.T) {
	di := hcsshim.DriverInfo{HomeDir: home, Flavour: 1}
	require.Error(t, hcsshim.UnprepareLayer(di, "dead"))
	require.Error(t, hcsshim.DeactivateLayer(di, "dead"))
	require.NoError(t, hcsshim.DestroyLayer(di, "dead"))
}

// TestFaultExpand has no fault: a scratch is made as big as moby makes it.
func TestFaultExpand(t *testing.T) {
	chain := image(t)
	di := scratch(t, "big", chain)
	require.NoError(t, hcsshim.ExpandScratchSize(di, "big", 127<<30))
	mount(t, di, "big", chain)
}

// unwrap returns the error behind hcsshim's own types, of which most have no Unwrap.
func unwrap(err error) error {
	switch e := err.(type) { //nolint:errorlint // it is this one that is asked
	case *hcsshim.HcsError:
		return e.Err
	case *hcsshim.ContainerError:
		return unwrap(e.Err)
	case interface{ Unwrap() error }:
		return unwrap(e.Unwrap())
	}
	return err
}
