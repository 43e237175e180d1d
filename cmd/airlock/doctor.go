package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/doctor"
	"github.com/airlock-ci/airlock/internal/fault"
)

// doctorJSON is the doctor's report in JSON output; doctor.Finding promises its own field names.
type doctorJSON struct {
	OK       bool             `json:"ok"` // no finding is a fail
	Findings []doctor.Finding `json:"findings"`
}

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "find out what this host can run",
		Description: "Looks at the kernel, the tools, the network, the disks and the configuration. It changes nothing, needs no\n" +
			"running service, and ends with status 1 when jobs could not run.",
		Flags: []cli.Flag{
			configFlag(),
			jsonFlag(),
		},
		Action: examine,
	}
}

func examine(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(ctx, c, 0, 0); err != nil {
		return err
	}
	options := doctor.Options{ConfigPath: c.String("config"), Version: version}
	if c.IsSet("socket") {
		options.Socket = c.String("socket")
	}
	if self, err := os.Executable(); err == nil {
		options.BinDir = filepath.Dir(self)
	}
	findings := doctor.Run(ctx, options)
	if err := printFindings(c, findings); err != nil {
		return err
	}
	if doctor.Failed(findings) {
		return exitStatus(fault.ExitBuildFailure)
	}
	return nil
}

func printFindings(c *cli.Command, findings []doctor.Finding) error {
	if c.Bool("json") {
		return printJSON(c.Root().Writer, doctorJSON{OK: !doctor.Failed(findings), Findings: findings})
	}
	rows := make([][]string, 0, len(findings))
	for _, f := range findings {
		rows = append(rows, []string{string(f.Status), f.Check, f.Detail})
		if f.Remedy != "" {
			rows = append(rows, []string{"", "", "remedy: " + f.Remedy})
		}
	}
	return printTable(c.Root().Writer, []string{"status", "check", "finding"}, rows)
}
