package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/mountns"
)

// probe boots a virtual machine to find out what this host can run, and remembers it until the host boots again.
// `airlock doctor` asks so, because only this program links the runtimes. A running executor is not disturbed.
//
//	airlock-executor probe --config FILE
func probe(arguments []string) error {
	flags := flag.NewFlagSet("airlock-executor probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "the configuration file")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if err := mountns.Enter(); err != nil {
		return err
	}
	cfg, err := config.Load(*path)
	if err != nil {
		return err
	}
	cfg.RunDir, cfg.CgroupParent = filepath.Join(cfg.RunDir, "probe"), cfg.CgroupParent+"-probe"
	machines, err := openMachines(cfg, zerolog.New(io.Discard))
	if err != nil {
		return err
	}
	_, err = machines.Probe(context.Background())
	return errors.Join(err, machines.Close(), os.RemoveAll(cfg.RunDir))
}
