//go:build linux

package service

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAHostWithoutSystemdIsToldSo(t *testing.T) {
	if !inside() {
		out, err := inNamespace(t, "")
		require.NoError(t, err, out)
		return
	}
	_, err := New(Options{ConfigPath: "/etc/airlock/config.toml"})
	require.ErrorContains(t, err, "service manager is not systemd")
	require.ErrorContains(t, err, "airlock serve")
}

// TestLifeOfTheUnit installs, starts, stops and removes the real unit, with systemctl replaced by a recorder,
// and lets systemd's own checker read it.
func TestLifeOfTheUnit(t *testing.T) {
	if inside() {
		liveTheUnitsLife(t)
		return
	}
	bin := t.TempDir()
	systemctl := "#!/bin/sh\necho \"$@\" >> " + bin + "/calls\n" +
		"case \"$1\" in is-active) echo \"${STATE:-active}\";; list-unit-files) ls /etc/systemd/system;; esac\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "systemctl"), []byte(systemctl), 0o755))
	out, err := inNamespace(t, bin)
	require.NoError(t, err, out)
	calls, err := os.ReadFile(filepath.Join(bin, "calls"))
	require.NoError(t, err)
	require.Equal(t, []string{
		"enable airlock.service", "daemon-reload", "start airlock.service", "is-active airlock.service",
		"is-active airlock.service", "stop airlock.service", "disable airlock.service", "daemon-reload",
	}, strings.Split(strings.TrimSpace(string(calls)), "\n"))
}

func liveTheUnitsLife(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Options{
		ConfigPath: filepath.Join(dir, "config with space.toml"), RunDir: "/run/airlock", StateDir: "/var/lib/airlock",
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.options.ConfigPath, nil, 0o600))
	require.NoError(t, s.Install())
	require.ErrorContains(t, s.Install(), "exists already")

	unit, err := os.ReadFile(unitPath)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	for _, line := range []string{
		"ExecStart=" + self + ` "serve" "--config" "` + s.options.ConfigPath + `"`,
		"Type=notify", "Delegate=yes", "KillMode=process", "Restart=always", "RuntimeDirectory=airlock",
		"RuntimeDirectoryPreserve=yes", "StateDirectory=airlock", "TasksMax=infinity",
		"NotifyAccess=main", "FileDescriptorStoreMax=128", // a socket for each runner class, and the service's own
	} {
		require.Contains(t, strings.Split(string(unit), "\n"), line)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unitPath).CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, unit)
	require.NotContains(t, string(out), unitPath, "systemd finds fault with the unit")

	require.NoError(t, s.Start())
	state, err := s.Status()
	require.NoError(t, err)
	require.Equal(t, "running", state)
	stopped := false
	remains, err := s.Uninstall(t.Context(), func(context.Context) error {
		require.FileExists(t, unitPath)
		stopped = true
		return nil
	})
	require.NoError(t, err)
	require.True(t, stopped)
	require.NoFileExists(t, unitPath)
	require.Contains(t, remains, s.options.ConfigPath)
}

func TestDirectoriesElsewhereAreNotSystemds(t *testing.T) {
	unit := unitTemplate(Options{RunDir: "/srv/run/airlock", StateDir: "/srv/airlock"})
	require.NotContains(t, unit, "RuntimeDirectory")
	require.NotContains(t, unit, "StateDirectory")
}

func TestNotifyReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	require.NoError(t, err)
	defer socket.Close()
	require.NoError(t, NotifyReady(), "without systemd there is nothing to do")
	t.Setenv("NOTIFY_SOCKET", path)
	require.NoError(t, NotifyReady())
	buf := make([]byte, 64)
	n, err := socket.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "READY=1\n", string(buf[:n]))
}

// inNamespace runs the calling test again, in another process, in a mount namespace whose /run and /etc/systemd/system are empty,
// with systemd's mark in /run when bin, a directory to be found first in PATH, is given.
func inNamespace(t *testing.T, bin string) (string, error) {
	t.Helper()
	script := "mount -t tmpfs none /run && mkdir -p /etc/systemd/system && mount -t tmpfs none /etc/systemd/system && "
	if bin != "" {
		script += "mkdir -p /run/systemd/system && "
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		script+`exec "$0" -test.run "^$1\$" -test.v`, os.Args[0], t.Name())
	cmd.Env = append(os.Environ(), "AIRLOCK_TEST_INSIDE=1", "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// inside reports whether the test runs in that namespace.
func inside() bool { return os.Getenv("AIRLOCK_TEST_INSIDE") != "" }
