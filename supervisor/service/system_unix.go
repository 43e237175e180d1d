//go:build unix

package service

import (
	"context"
	"os"

	kardianos "github.com/kardianos/service"

	"github.com/airlock-ci/airlock/internal/fault"
)

// What this system's service manager is called, by kardianos and by people.
const (
	manager          = "linux-systemd"
	managerName      = "systemd"
	becomePrivileged = "run the command as root"
	seeLogs          = "see systemctl status " + Name + " and journalctl -u " + Name
)

func privileged() bool { return os.Geteuid() == 0 }

func describe(options Options) *kardianos.Config {
	return &kardianos.Config{
		Name:       Name,
		Executable: options.Executable,
		Arguments:  []string{"serve", "--config", options.ConfigPath},
		Option:     kardianos.KeyValue{"SystemdScript": unitTemplate(options)},
	}
}

// unitPath is where kardianos writes the unit.
const unitPath = "/etc/systemd/system/" + Name + ".service"

// Install writes and enables the unit. It starts nothing.
func (s *Service) Install() error {
	if _, err := os.Stat(unitPath); err == nil {
		return fault.WithRemedy(fault.Adminf("%s exists already", unitPath), "run airlock service uninstall first")
	}
	if err := s.system.Install(); err != nil {
		_ = os.Remove(unitPath) // kardianos leaves an empty one
		return explain("installing", err)
	}
	return nil
}

// notRunning is never an error of systemd's.
func notRunning(error) bool { return false }

// Run runs serve, until ctx ends: systemd needs nothing but a process.
func Run(ctx context.Context, serve func(context.Context) error) error { return serve(ctx) }

// Report does nothing: the service manager keeps what main says.
func Report(error) {}

// LogFile is empty: the service manager keeps what the service writes.
func LogFile() string { return "" }
