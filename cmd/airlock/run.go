package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

func runCommand() *cli.Command {
	one := 1
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command in a fresh sandbox, without GitLab",
		ArgsUsage: "[-- COMMAND [ARGUMENT...]]",
		Description: "Makes a sandbox as a job would get it, runs COMMAND in it and destroys it. The command's output,\n" +
			"input and signals pass through, its status is airlock's own. Without COMMAND it is an interactive shell.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "image", Usage: "the `IMAGE` to run in; default: the configuration's image"},
			&cli.StringFlag{Name: "isolation", Usage: "`LEVEL`: process or hypervisor; default: the policy's choice"},
			&cli.StringFlag{Name: "network", Usage: "`MODE`: nat or none; default: the configuration's network_mode"},
			&cli.StringSliceFlag{Name: "env", Usage: "set a variable, `KEY=VALUE`; may be repeated"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the command a terminal"},
		},
		DisableSliceFlagSeparator: true, // a value may hold commas
		StopOnNthArg:              &one, // what follows COMMAND is its own
		HideHelpCommand:           true, // `airlock run help` runs help
		Action:                    runSandbox,
	}
}

func runSandbox(ctx context.Context, c *cli.Command) error {
	sandbox := &api.Sandbox{
		Image:     c.String("image"),
		Isolation: c.String("isolation"),
		Network:   c.String("network"),
		Command:   c.Args().Slice(),
		Env:       c.StringSlice("env"),
	}
	for _, pair := range sandbox.Env {
		if key, _, ok := strings.Cut(pair, "="); !ok || key == "" {
			return usageError(ctx, c, fmt.Errorf("--env %q is not KEY=VALUE", printable(pair)), true)
		}
	}
	tty := c.Bool("tty")
	if len(sandbox.Command) == 0 {
		tty = true
	}
	if tty && !isTerminal(os.Stdin) {
		if !c.Bool("tty") {
			return usageError(ctx, c, errors.New("no command given, and no terminal for a shell"), true)
		}
		return fault.WithRemedy(fault.Adminf("--tty: stdin is not a terminal"), "leave --tty out")
	}
	return attach(ctx, c, tty, func(ctx context.Context, s session) (int, error) {
		sandbox.TTY, sandbox.Size = tty, s.size
		return s.service.Call(ctx, api.OpSandbox, sandbox, s.streams)
	})
}

// endOf turns how a command ended into how airlock ends.
func endOf(code int, err error) error {
	switch {
	case errors.Is(err, syscall.EPIPE):
		return exitStatus(128 + int(syscall.SIGPIPE)) // as if the signal had ended it: nobody reads on
	case err != nil:
		return err
	case code != 0:
		return exitStatus(code)
	default:
		return nil
	}
}
