package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:            "config",
		Usage:           "check the configuration, or print an example",
		HideHelpCommand: true,
		Commands: []*cli.Command{
			{
				Name:        "check",
				Usage:       "check a configuration file",
				ArgsUsage:   "[FILE]",
				Description: "Names every unknown key, wrong type and wrong value with its line and column. Default: " + config.DefaultPath,
				Action:      checkConfig,
			},
			{
				Name:   "example",
				Usage:  "print a configuration with every key, its meaning and its default",
				Action: printExample,
			},
		},
	}
}

func checkConfig(ctx context.Context, c *cli.Command) error {
	path, _, err := loadArgument(ctx, c)
	if err != nil {
		return err
	}
	if config.Absent(path) {
		_, err = io.WriteString(c.Root().Writer, noFile(path)+"\n")
		return err
	}
	_, err = fmt.Fprintf(c.Root().Writer, "%s is valid\n", printable(path))
	return err
}

// noFile says that there is no configuration, which is none of the administrator's mistakes.
func noFile(path string) string {
	return fmt.Sprintf("there is no %s: the defaults hold (airlock config example prints them)", printable(path))
}

// loadArgument loads the one file that the command names, or the default one.
func loadArgument(ctx context.Context, c *cli.Command) (path string, cfg *config.Config, err error) {
	args, err := arguments(ctx, c, 0, 1)
	if err != nil {
		return "", nil, err
	}
	path = config.DefaultPath
	if len(args) == 1 {
		path = args[0]
	}
	cfg, err = config.Load(path)
	return path, cfg, err
}

func printExample(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(ctx, c, 0, 0); err != nil {
		return err
	}
	_, err := io.WriteString(c.Root().Writer, config.Example)
	return err
}
