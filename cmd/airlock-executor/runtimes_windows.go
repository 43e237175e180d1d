package main

import (
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/hcs"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

// openRuntimes returns both runtimes of this host, and begins to remove what an earlier executor left.
func openRuntimes(cfg *config.Config, logger zerolog.Logger) (runtimes, error) {
	found := runtimes{unavailable: map[isolation.Level]error{}}
	host, err := hcs.Open(hcs.Options{
		// Beside the scratches, on their volume: discarded ones are moved here.
		Dir: filepath.Join(cfg.StateDir, "hcs"), HelperDir: cfg.Windows.HelperDir, Templates: cfg.Windows.TemplateVMs, Logger: logger,
	})
	if err != nil {
		for _, level := range []isolation.Level{isolation.ProcessLevel, isolation.HypervisorLevel} {
			found.unavailable[level] = err
		}
		return found, nil
	}
	if cfg.Limits.PIDs != 0 {
		logger.Info().Msg("pids_limit is not enforced on Windows")
	}
	host.Sweep()
	found.add(isolation.ProcessLevel, host.Runtime(isolation.ProcessLevel), nil)
	found.add(isolation.HypervisorLevel, host.Runtime(isolation.HypervisorLevel), nil)
	return found, nil
}

// runnerDirs removes what dead runners left.
func runnerDirs(*store.Journal) []reaper.Resource { return []reaper.Resource{reaper.NewRunnerDirs()} }

// importer is the command that imports layers: this program, see importLayer.
func importer() ([]string, error) {
	self, err := os.Executable()
	return []string{self, importCommand}, err
}
