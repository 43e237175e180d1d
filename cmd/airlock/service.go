package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/supervisor"
	"github.com/airlock-ci/airlock/supervisor/service"
)

func serviceCommand() *cli.Command {
	return &cli.Command{
		Name:            "service",
		Usage:           "install and control the system's service",
		HideHelpCommand: true,
		Commands: []*cli.Command{
			{Name: "install", Usage: "install and enable the service; it is not started", Flags: []cli.Flag{configFlag()}, Action: serviceInstall},
			{Name: "uninstall", Usage: "stop the service and every sandbox, and remove the service", Flags: []cli.Flag{configFlag()}, Action: serviceUninstall},
			{Name: "start", Usage: "start the service", Flags: []cli.Flag{configFlag()}, Action: withService((*service.Service).Start)},
			{
				Name: "stop", Usage: "stop the service; living sandboxes go on",
				Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "all", Usage: "end the executor and every sandbox too"}}, Action: serviceStop,
			},
			{Name: "status", Usage: "say whether the service runs", Flags: []cli.Flag{configFlag(), jsonFlag()}, Action: serviceStatus},
		},
	}
}

// openService checks that a command got no arguments, and loads the configuration that the service has, or will
// have.
func openService(ctx context.Context, c *cli.Command) (*service.Service, *config.Config, error) {
	if _, err := arguments(ctx, c, 0, 0); err != nil {
		return nil, nil, err
	}
	path, cfg, err := loadConfig(c)
	if err != nil {
		return nil, nil, err
	}
	s, err := service.New(service.Options{ConfigPath: path, RunDir: cfg.RunDir, StateDir: cfg.StateDir})
	return s, cfg, err
}

// withService is the action of a command that does one thing to the service.
func withService(act func(*service.Service) error) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		s, _, err := openService(ctx, c)
		if err != nil {
			return err
		}
		return act(s)
	}
}

func serviceInstall(ctx context.Context, c *cli.Command) error {
	if err := withService((*service.Service).Install)(ctx, c); err != nil {
		return err
	}
	_, err := io.WriteString(c.Root().Writer, "The service is installed and starts with the system. Start it now with: airlock service start\n")
	return err
}

func serviceStop(ctx context.Context, c *cli.Command) error {
	s, cfg, err := openService(ctx, c)
	if err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	if !c.Bool("all") {
		return nil
	}
	return stopExecutor(c, cfg)(ctx)
}

// stopExecutor ends the executor that a stopped service left, with its sandboxes.
func stopExecutor(c *cli.Command, cfg *config.Config) func(context.Context) error {
	return func(context.Context) error {
		log, err := serviceLogger(cfg, c.Root().ErrWriter)
		if err != nil {
			return err
		}
		return supervisor.StopExecutor(cfg.RunDir, log)
	}
}

func serviceUninstall(ctx context.Context, c *cli.Command) error {
	s, cfg, err := openService(ctx, c)
	if err != nil {
		return err
	}
	remains, err := s.Uninstall(ctx, stopExecutor(c, cfg))
	if err != nil {
		return err
	}
	out := c.Root().Writer
	if _, err := fmt.Fprintln(out, "The service is removed."); err != nil {
		return err
	}
	for _, path := range remains {
		if _, err := fmt.Fprintf(out, "Left as it is; remove it yourself if you do not need it: %s\n", printable(path)); err != nil {
			return err
		}
	}
	return nil
}

func serviceStatus(ctx context.Context, c *cli.Command) error {
	s, _, err := openService(ctx, c)
	if err != nil {
		return err
	}
	state, err := s.Status()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return json.NewEncoder(c.Root().Writer).Encode(map[string]string{"name": service.Name, "state": state})
	}
	_, err = fmt.Fprintln(c.Root().Writer, state)
	return err
}
