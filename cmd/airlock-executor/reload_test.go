package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/store"
	"github.com/airlock-ci/airlock/testing/fakes"
	"github.com/airlock-ci/airlock/testing/gitlabtest"
)

// TestAReloadIsWholeOrNothing: a file that is refused in any part, the keys of id tokens included, leaves the policy in
// force that was.
func TestAReloadIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	path, keys := filepath.Join(dir, "config.toml"), filepath.Join(dir, "keys.json")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	const byProject = "[[policy.rules]]\nname = 'mine'\nwhen = 'job.project_id == 42'\nisolation = 'process'\n"
	write(byProject)
	cfg, err := config.Load(path)
	require.NoError(t, err)
	first, err := settings(cfg)
	require.NoError(t, err)

	world := fakes.NewWorld()
	var log bytes.Buffer
	prepared := 0
	b := &backend{configPath: path, log: zerolog.New(&log), prepare: func(*config.Config) { prepared++ }}
	b.setLevels(cfg)
	b.Service, err = jobs.New(jobs.Options{
		Settings: first, Layers: world, Networks: world, Journal: store.NewMemory(), Logger: zerolog.Nop(),
		Runtimes: []isolation.Runtime{world.Runtime(isolation.ProcessLevel), world.Runtime(isolation.HypervisorLevel)},
	})
	require.NoError(t, err)
	level := func() string {
		t.Helper()
		handle := gitlab.NewHandle(7)
		require.NoError(t, b.Prepare(t.Context(), &api.Prepare{Handle: string(handle)}, []byte(`{"id":7,"job_info":{"project_id":42},"image":{"name":"x"}}`), &log))
		info, err := b.Inspect(t.Context(), "7")
		require.NoError(t, err)
		require.NoError(t, b.Cleanup(t.Context(), &api.Cleanup{Handle: string(handle)}))
		return info.Isolation
	}
	require.Equal(t, "process", level())

	const byToken = "[policy.id_token]\nissuer = 'https://g'\naudience = 'a'\nkeys = '"
	for _, refused := range []string{
		"[policy]\n[[policy.rules]]\nname = 'x'\nwhen = 'git.protcted'\n",
		"[[policy.rules]]\nname = 'x'\nwhen = 'claimed.stage == \"x\"'\nisolation = 'process'\n",
		"isolation = 'hypervisor'\n" + byProject,
		"not TOML",
		byToken + keys + "'\n", // the file is not there
	} {
		write(refused)
		require.Error(t, b.Reload(t.Context()), refused)
		require.Equal(t, "process", level(), refused)
	}
	require.Len(t, *b.levels.Load(), 2)
	require.Zero(t, prepared, "for a configuration that is not in force")

	require.NoError(t, os.WriteFile(keys, gitlabtest.NewIssuer("https://g").JWKS(), 0o600))
	require.NoError(t, b.Reload(t.Context()))
	require.Equal(t, "hypervisor", level(), "the new policy has no rules")
	require.Equal(t, []isolation.Level{isolation.HypervisorLevel}, *b.levels.Load())
	require.Contains(t, log.String(), "the policy is in force")
	write("isolation = 'process'\n")
	require.NoError(t, b.Reload(t.Context()))
	require.Equal(t, "process", level(), "no policy any more")
	write("")
	require.NoError(t, b.Reload(t.Context()))
	require.Equal(t, "hypervisor", level(), "nothing is said: the stronger one")
	require.Equal(t, 3, prepared)
}
