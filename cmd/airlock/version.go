package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v3"

	"github.com/airlock-ci/airlock/api"
)

// versionJSON is this command's version in JSON output.
type versionJSON struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print this command's version",
		Flags:  []cli.Flag{jsonFlag()},
		Action: printVersion,
	}
}

func printVersion(_ context.Context, c *cli.Command) error {
	v := versionJSON{version, api.ProtocolVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH}
	out := c.Root().Writer
	if c.Bool("json") {
		return printJSON(out, v)
	}
	_, err := fmt.Fprintf(out, "airlock %s (protocol %d, %s, %s/%s)\n", v.Version, v.Protocol, v.Go, v.OS, v.Arch)
	return err
}
