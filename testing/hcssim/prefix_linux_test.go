package hcssim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/hcssim/service"
)

// TestPaths: a client's path leads below its C:, or nowhere: the service removes what it names.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	drive := filepath.Join(dir, "drive_c")
	require.NoError(t, os.MkdirAll(filepath.Join(drive, "ProgramData", "Airlock"), 0o755))
	require.NoError(t, os.Symlink("/etc", filepath.Join(drive, "etc")))
	require.NoError(t, os.Symlink("ProgramData", filepath.Join(drive, "data")))
	p := &prefix{dir: dir, drive: drive}
	for windows, want := range map[string]string{
		`C:\ProgramData\Airlock`:     "ProgramData/Airlock",
		`c:\programdata\AIRLOCK\New`: "ProgramData/Airlock/New",
		`\\?\C:\ProgramData\Airlock`: "ProgramData/Airlock",
		`C:/ProgramData/Airlock/`:    "ProgramData/Airlock",
		`C:\data\Airlock`:            "data/Airlock",
		`C:\new\a\b`:                 "new/a/b",
		`C:\`:                        "",
	} {
		got, err := p.Path(windows)
		require.NoError(t, err, windows)
		require.Equal(t, filepath.Join(drive, want), got, windows)
	}
	for _, windows := range []string{
		"", `C:`, `D:\x`, `Z:\etc`, `\\?\Z:\etc`, `ProgramData`, `C:\..`, `C:\ProgramData\..\..`, `C:\etc`, `C:\etc\passwd`, `C:\ETC\new`,
		`\\server\share`, `C:\ProgramData\.`,
	} {
		_, err := p.Path(windows)
		require.Error(t, err, windows)
	}
}

func TestBuildOfRegistry(t *testing.T) {
	const registry = "[A] 1\n\"x\"=\"y\"\n\n[Software\\\\Microsoft\\\\Windows NT\\\\CurrentVersion] 2\n#time=3\n" +
		"\"CSDVersion\"=\"Service Pack 1\"\n\"CurrentBuild\"=\"7601\"\n\"SystemRoot\"=\"C:\\\\windows\"\n\n[Z] 4\n"
	text, err := setBuild(registry, 26100)
	require.NoError(t, err)
	require.Contains(t, text, "\n\"CurrentBuildNumber\"=\"26100\"\n")
	require.Contains(t, text, "\"SystemRoot\"=\"C:\\\\windows\"\n")
	require.NotContains(t, text, "7601")
	require.NotContains(t, text, "Service Pack")
	require.Contains(t, text, "\n\n[Z] 4\n")
	_, err = setBuild("nothing", 1)
	require.Error(t, err)
}

// TestHold: what is held can be written into, but not renamed or removed.
func TestHold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "scratch")
	require.NoError(t, os.Mkdir(dir, 0o755))
	p := &prefix{held: map[string]bool{}}
	p.Hold(dir)
	defer p.Release(dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o644))
	if os.Getuid() == 0 {
		require.Error(t, os.Rename(dir, dir+"-removing"))
	}
	p.Release(dir)
	require.NoError(t, os.Rename(dir, dir+"-removing"))
}

func TestVolumes(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dosdevices"), 0o755))
	p := &prefix{dir: dir}
	volume := service.NameToGUID("x")
	require.NoError(t, p.Publish(volume, "/a"))
	require.NoError(t, p.Publish(volume, "/b"))
	to, err := os.Readlink(p.volumeLink(volume))
	require.NoError(t, err)
	require.Equal(t, "/b", to)
	p.Withdraw(volume)
	require.NoFileExists(t, p.volumeLink(volume))
}
