package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
)

func logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "show what the executor did",
		ArgsUsage: "[JOB]",
		Description: "Shows the executor's kept log lines, of one job id or sandbox id or of all. They tell what Airlock did,\n" +
			"not what jobs printed. With --json each line is printed as it was logged, a JSON object a line.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with new lines as they come"},
			jsonFlag(),
		},
		Action: showLogs,
	}
}

func showLogs(ctx context.Context, c *cli.Command) error {
	service, _, err := connect(ctx, c, 0, 1)
	if err != nil {
		return err
	}
	out := c.Root().Writer
	emit := func(line []byte) error {
		_, err := fmt.Fprintf(out, "%s\n", line)
		return err
	}
	if !c.Bool("json") {
		emit = humanLines(out)
	}
	defer service.Close()
	return api.ReadEvents(ctx, service, api.Events{Job: c.Args().First(), Follow: c.Bool("follow")}, emit)
}

// humanLines prints log lines for people. One that is no JSON object is printed as it is.
func humanLines(out io.Writer) func(line []byte) error {
	console := zerolog.ConsoleWriter{
		Out:        out,
		NoColor:    !isTerminal(out),
		TimeFormat: time.DateTime,
		FormatMessage: func(message any) string {
			if message == nil {
				return ""
			}
			return printable(fmt.Sprint(message))
		},
	}
	return func(line []byte) error {
		if _, err := console.Write(line); err == nil {
			return nil
		}
		_, err := fmt.Fprintln(out, printable(string(line)))
		return err
	}
}
