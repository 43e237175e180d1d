//go:build !linux && !windows

package main

import (
	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

// openRuntimes refuses to start: there is no runtime for this operating system yet.
func openRuntimes(*config.Config, zerolog.Logger) (runtimes, error) {
	return runtimes{}, fault.Adminf("this version of Airlock can make sandboxes on Linux only")
}

// runnerDirs finds nothing here yet.
func runnerDirs(*store.Journal) []reaper.Resource { return nil }
