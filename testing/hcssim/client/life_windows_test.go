package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/osversion"
	"github.com/stretchr/testify/require"
)

func TestHost(t *testing.T) {
	version := osversion.Get()
	require.EqualValues(t, []any{uint8(10), uint8(0), uint16(hostBuild)}, []any{version.MajorVersion, version.MinorVersion, version.Build})
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	require.NoError(t, err)
	require.Empty(t, systems)
}

func TestImport(t *testing.T) {
	chain := image(t)
	read := func(elements ...string) string {
		text, err := os.ReadFile(filepath.Join(elements...))
		require.NoError(t, err)
		return string(text)
	}
	require.Equal(t, "base", read(chain[1], "Files", "image", "base.txt"))
	require.Equal(t, "upper", read(chain[0], "Files", "image", "both.txt"))
	require.Equal(t, "boot configuration", read(chain[1], "UtilityVM", "Files", "EFI", "Microsoft", "Boot", "BCD"))
	require.FileExists(t, filepath.Join(chain[1], "blank.vhdx"))
	require.FileExists(t, filepath.Join(chain[1], "UtilityVM", "SystemTemplate.vhdx"))
	require.NoFileExists(t, filepath.Join(chain[0], "Files", "image", "base.txt"), "the tombstone")
}

func TestScratchLife(t *testing.T) {
	chain := image(t)
	di := scratch(t, "scratch-life", chain)
	exists, err := hcsshim.LayerExists(di, "scratch-life")
	require.NoError(t, err)
	require.True(t, exists)
	volume := mount(t, di, "scratch-life", chain)
	require.Regexp(t, `^\\\\\?\\Volume\{[0-9a-fA-F-]{36}\}$`, volume)
	entries, err := os.ReadDir(volume + `\`)
	require.NoError(t, err)
	t.Logf("%d entries in the volume", len(entries))
	require.Error(t, os.Rename(filepath.Join(home, "scratch-life"), filepath.Join(home, "scratch-moved")), "it is mounted")
}

func TestArgon(t *testing.T) {
	c := startArgon(t, "argon-1")
	out, errs, code := run(t, c, cmd("echo hello& echo oops>&2& exit 7"), "")
	require.Equal(t, []any{"hello\n", "oops\n", 7}, []any{out, errs, code})
	out, _, code = run(t, c, hcsshim.ProcessConfig{CommandLine: `cmd /c "echo %AIRLOCK% %CD%"`, WorkingDirectory: `C:\windows`,
		Environment: map[string]string{"AIRLOCK": "yes"}, User: "ContainerAdministrator"}, "")
	require.Equal(t, []any{"yes C:\\windows\n", 0}, []any{out, code})
	out, errs, code = run(t, c, child("cat"), "over and out")
	require.Equal(t, []any{"over and out", "", 0}, []any{out, errs, code})
}

func TestXenon(t *testing.T) {
	c := startXenon(t, "xenon-1")
	out, _, code := run(t, c, cmd("echo from a virtual machine"), "")
	require.Equal(t, []any{"from a virtual machine\n", 0}, []any{out, code})
}

// TestStreams runs many short processes: output must be whole, and input arrive before its end.
func TestStreams(t *testing.T) {
	c := startArgon(t, "streams")
	for i := range 10 {
		out, _, _ := run(t, c, child("cat"), "over and out")
		require.Equal(t, "over and out", out, "round %d", i)
		out, _, _ = run(t, c, cmd("echo one& echo two"), "")
		require.Equal(t, "one\ntwo\n", out, "round %d", i)
	}
}
