package main

import (
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/microvm"
	"github.com/airlock-ci/airlock/isolation/oci"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

// openRuntimes returns the runtimes of this host. One that cannot work here does not keep the other from it.
func openRuntimes(cfg *config.Config, logger zerolog.Logger) (runtimes, error) {
	agent, err := sibling("airlock-agent")
	if err != nil {
		return runtimes{}, err
	}
	found := runtimes{unavailable: map[isolation.Level]error{}}
	containers, err := oci.New(oci.Options{
		Runtime: cfg.Runtime, AgentPath: agent, RunDir: filepath.Join(cfg.RunDir, "oci"),
		CgroupParent: cfg.CgroupParent, Logger: logger,
	})
	found.add(isolation.ProcessLevel, containers, err)
	machines, err := openMachines(cfg, logger)
	found.add(isolation.HypervisorLevel, machines, err)
	return found, nil
}

func openMachines(cfg *config.Config, logger zerolog.Logger) (*microvm.Runtime, error) {
	agent, err := sibling("airlock-agent")
	if err != nil {
		return nil, err
	}
	return microvm.New(microvm.Options{
		QEMU: cfg.Hypervisor.QEMU, Kernel: cfg.Hypervisor.Kernel, KernelDir: cfg.Hypervisor.KernelDir,
		AllowEmulation: cfg.Hypervisor.AllowEmulation, NoTemplates: !cfg.Hypervisor.Templates, Pool: cfg.Hypervisor.Pool, AgentPath: agent,
		StateDir: filepath.Join(cfg.StateDir, "microvm"), RunDir: filepath.Join(cfg.RunDir, "microvm"),
		CgroupParent: cfg.CgroupParent, Logger: logger,
	})
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
