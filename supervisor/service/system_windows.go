package service

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	kardianos "github.com/kardianos/service"
	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/private"
)

// What this system's service manager is called, by kardianos and by people.
const (
	manager          = "windows-service"
	managerName      = "the service control manager"
	becomePrivileged = "run the command as an administrator"
	seeLogs          = "see sc query " + Name + ", the service's log and Windows' event log"
)

func privileged() bool { return windows.GetCurrentProcessToken().IsElevated() }

// describe makes a service of the system's own user. It comes after vmcompute and hns, without which there is nothing
// to serve, and is started again a second after it failed.
func describe(options Options) *kardianos.Config {
	return &kardianos.Config{
		Name:         Name,
		DisplayName:  "Airlock",
		Description:  "Sandboxes for GitLab CI jobs",
		Executable:   options.Executable,
		Arguments:    []string{"serve", "--config", options.ConfigPath},
		Dependencies: []string{"vmcompute", "hns"},
		Option: kardianos.KeyValue{
			kardianos.OnFailure: kardianos.OnFailureRestart, kardianos.OnFailureDelayDuration: "1s", kardianos.OnFailureResetPeriod: 60,
		},
	}
}

// Install registers the service. It starts nothing.
func (s *Service) Install() error {
	if state, err := s.Status(); err == nil && state != "not installed" {
		return fault.WithRemedy(fault.Adminf("the service exists already"), "run airlock service uninstall first")
	}
	if err := private.CheckServiceOwner(s.options.ConfigPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Adminf("the service would not believe its configuration: %w", err)
	}
	return explain("installing", s.system.Install())
}

// Report writes why the service ends where Windows' administrators look: into the event log. Of a process with a console,
// main says it.
func Report(err error) {
	if kardianos.Interactive() {
		return
	}
	system, failed := kardianos.New(idle{}, &kardianos.Config{Name: Name})
	if failed != nil {
		return
	}
	if log, failed := system.SystemLogger(nil); failed == nil {
		_ = log.Error(err)
	}
}

// notRunning reports whether there was nothing to stop.
func notRunning(err error) bool { return errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) }

// Run runs serve until ctx ends, or until the service control manager, when that started this process, says so.
func Run(ctx context.Context, serve func(context.Context) error) error {
	if kardianos.Interactive() {
		return serve(ctx)
	}
	// Nothing but the service control manager ends a service: Go makes SIGTERM of the news that some user logs off.
	p := &program{ctx: context.WithoutCancel(ctx), serve: serve, ended: make(chan struct{})}
	system, err := kardianos.New(p, &kardianos.Config{Name: Name})
	if err != nil {
		return fault.Systemf("running as a service: %w", err)
	}
	return errors.Join(system.Run(), p.err)
}

// program is what the service control manager starts and stops.
type program struct {
	ctx   context.Context
	serve func(context.Context) error
	stop  context.CancelCauseFunc
	ended chan struct{}
	err   error // of serve, once ended is closed
}

// Start returns at once, as the service control manager wants. A service that ends by itself has failed: the process
// ends with it, so that it is started again.
func (p *program) Start(kardianos.Service) error {
	ctx, stop := context.WithCancelCause(p.ctx)
	p.stop = stop
	go func() {
		p.err = p.serve(ctx)
		close(p.ended)
		if ctx.Err() == nil {
			os.Exit(fault.ExitCode(p.err) | 1)
		}
	}()
	return nil
}

// Stop ends serve and waits for it.
func (p *program) Stop(kardianos.Service) error {
	p.stop(errors.New("the service control manager stops the service"))
	<-p.ended
	return nil
}

// LogFile is where a service, which has no console, writes its log; empty when this process has one.
func LogFile() string {
	if kardianos.Interactive() {
		return ""
	}
	return filepath.Join(filepath.Dir(config.DefaultPath), "log", "airlock.log")
}
