package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/executor/config"
	"github.com/airlock-ci/airlock/isolation/oci"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

// openRuntimes returns the runtimes of this operating system and what closes them.
func openRuntimes(cfg *config.Config, logger zerolog.Logger) ([]sandboxRuntime, []io.Closer, error) {
	agent, err := sibling("airlock-agent")
	if err != nil {
		return nil, nil, err
	}
	containers, err := oci.New(oci.Options{
		Runtime: cfg.Runtime, AgentPath: agent, RunDir: filepath.Join(cfg.RunDir, "oci"),
		CgroupParent: cfg.CgroupParent, Logger: logger,
	})
	if err != nil {
		return nil, nil, err
	}
	return []sandboxRuntime{containers}, []io.Closer{containers}, nil
}

// sibling is the path of another of our binaries: they are installed side by side.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// runnerDirs finds what dead runners left.
func runnerDirs(journal *store.Journal) []reaper.Resource {
	return []reaper.Resource{reaper.NewRunnerDirs(journal, reaper.RunnerDirsOptions{})}
}
