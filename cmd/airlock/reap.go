package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/internal/fault"
)

// leftoverJSON is something that no living job owned, in JSON output. Its field names are a promise to scripts.
type leftoverJSON struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Sandbox string `json:"sandbox"`
	Removed bool   `json:"removed"`
	Error   string `json:"error"`
}

func reapCommand() *cli.Command {
	return &cli.Command{
		Name:  "reap",
		Usage: "remove what no living job owns",
		Description: "The executor does this by itself, at its start and every reap_interval. Ends with status 2 when something\n" +
			"could not be removed.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "only show what would be removed"},
			jsonFlag(),
		},
		Action: reap,
	}
}

func reap(ctx context.Context, c *cli.Command) error {
	service, _, err := connect(ctx, c, 0, 0)
	if err != nil {
		return err
	}
	defer service.Close()
	leftovers, err := api.Ask(ctx, service, api.Reap, api.ReapRequest{DryRun: c.Bool("dry-run")})
	if err != nil {
		return err
	}
	if err := printLeftovers(c, leftovers); err != nil {
		return err
	}
	failed := 0
	for _, l := range leftovers {
		if l.Error != "" {
			failed++
		}
	}
	if failed > 0 {
		return fault.WithRemedy(fault.Systemf("%d of %d leftovers could not be removed", failed, len(leftovers)),
			"airlock logs has the details; the next pass tries again")
	}
	return nil
}

func printLeftovers(c *cli.Command, leftovers []*api.Leftover) error {
	out := c.Root().Writer
	if c.Bool("json") {
		list := make([]leftoverJSON, 0, len(leftovers))
		for _, l := range leftovers {
			list = append(list, leftoverJSON{l.Kind, l.Name, l.Sandbox, l.Removed, l.Error})
		}
		return printJSON(out, list)
	}
	if len(leftovers) == 0 {
		_, err := fmt.Fprintln(out, "nothing is left over")
		return err
	}
	rows := make([][]string, 0, len(leftovers))
	for _, l := range leftovers {
		rows = append(rows, []string{l.Kind, l.Name, orDash(l.Sandbox), outcome(l)})
	}
	return printTable(out, []string{"kind", "name", "sandbox", "outcome"}, rows)
}

func outcome(l *api.Leftover) string {
	switch {
	case l.Error != "":
		return "failed: " + l.Error
	case l.Removed:
		return "removed"
	default:
		return "would be removed"
	}
}
