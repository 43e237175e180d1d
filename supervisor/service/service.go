// Package service installs `airlock serve` as a service of the operating system, a systemd unit on Linux, a service of
// the service control manager on Windows, and runs it as one.
//
// It owns the unit's text, the service's description and the order in which things are stopped and removed. It never
// touches images, caches or the configuration. Its caller is cmd/airlock.
package service

import (
	"context"
	"errors"
	"fmt"
	"os"

	kardianos "github.com/kardianos/service"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Name is the service's name; the unit is Name + ".service".
const Name = "airlock"

// Options say what the service runs.
type Options struct {
	// Executable is the airlock binary; empty: the calling program.
	Executable string
	// ConfigPath is passed to serve.
	ConfigPath string
	// RunDir and StateDir are the configuration's; the unit makes them when they lie directly below /run and
	// /var/lib, otherwise serve does.
	RunDir, StateDir string
}

// Service is the installed, or installable, service.
type Service struct {
	options Options
	system  kardianos.Service
}

// New prepares the service's management. A system without a service manager that is supported is an error of
// class admin.
func New(options Options) (*Service, error) {
	if system := kardianos.ChosenSystem(); system == nil || system.String() != manager {
		return nil, fault.WithRemedy(fault.Adminf("this host's service manager is not %s", managerName),
			"start \"airlock serve\" with the service manager there is, as root and outside of gitlab-runner's own service")
	}
	system, err := kardianos.New(idle{}, describe(options))
	if err != nil {
		return nil, fault.Systemf("preparing the service: %w", err)
	}
	return &Service{options: options, system: system}, nil
}

// idle stands in for the program that kardianos would run; serve runs by itself.
type idle struct{}

func (idle) Start(kardianos.Service) error { return nil }
func (idle) Stop(kardianos.Service) error  { return nil }

// Start starts the service.
func (s *Service) Start() error { return explain("starting", s.system.Start()) }

// Stop stops the service, if it runs. An executor with living sandboxes goes on; stopping it too is the caller's next step.
func (s *Service) Stop() error {
	err := s.system.Stop()
	if notRunning(err) {
		return nil
	}
	return explain("stopping", err)
}

// Status is "running", "stopped" or "not installed".
func (s *Service) Status() (string, error) {
	status, err := s.system.Status()
	switch {
	case errors.Is(err, kardianos.ErrNotInstalled):
		return "not installed", nil
	case err != nil:
		return "", explain("asking for the state of", err)
	case status == kardianos.StatusRunning:
		return "running", nil
	default:
		return "stopped", nil
	}
}

// Uninstall stops the service, then whatever stop ends (the executor with its sandboxes), and removes the
// unit. It returns the directories and files that remain, because they hold what an administrator may want.
func (s *Service) Uninstall(ctx context.Context, stop func(context.Context) error) (remains []string, err error) {
	if state, err := s.Status(); err == nil && state == "not installed" {
		return nil, fault.Adminf("the service is not installed")
	}
	if err := s.Stop(); err != nil {
		return nil, err
	}
	if err := stop(ctx); err != nil {
		return nil, err
	}
	if err := s.system.Uninstall(); err != nil {
		return nil, explain("uninstalling", err)
	}
	for _, path := range []string{s.options.ConfigPath, s.options.StateDir, s.options.RunDir} {
		if _, err := os.Stat(path); err == nil {
			remains = append(remains, path)
		}
	}
	return remains, nil
}

func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s the service: %w", what, err)
	if !privileged() {
		return fault.WithRemedy(fault.Adminf("%w", err), becomePrivileged)
	}
	return fault.WithRemedy(fault.Systemf("%w", err), seeLogs)
}
