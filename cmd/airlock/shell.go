package main

import (
	"context"
	"os"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
)

func shellCommand() *cli.Command {
	return &cli.Command{
		Name:      "shell",
		Usage:     "open a shell in the sandbox of a running job",
		ArgsUsage: "JOB [-- COMMAND [ARGUMENT...]]",
		Description: "JOB is a job id or a sandbox id. With COMMAND it runs that instead of a shell. It has a terminal when\n" +
			"airlock itself has one.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "helper", Usage: "in the helper root, where git and gitlab-runner are"},
		},
		HideHelpCommand: true,
		Action:          openShell,
	}
}

func openShell(ctx context.Context, c *cli.Command) error {
	args, err := arguments(ctx, c, 1, -1)
	if err != nil {
		return err
	}
	tty := isTerminal(os.Stdin) && isTerminal(os.Stdout)
	shell := &api.Shell{Job: args[0], Command: args[1:], Helper: c.Bool("helper"), TTY: tty}
	return attach(ctx, c, tty, func(ctx context.Context, s session) (int, error) {
		shell.Size = s.size
		return s.service.Call(ctx, api.OpShell, shell, s.streams)
	})
}
