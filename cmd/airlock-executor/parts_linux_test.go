package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/internal/fault"
)

// TestAHostWithoutTheLevel: the executor says what to install, here the agent, which is not beside this test, and gives
// back what it had opened by then.
func TestAHostWithoutTheLevel(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	require.NoError(t, os.WriteFile(path, []byte("isolation = 'process'\nstate_dir = '"+dir+"/state'\nrun_dir = '"+dir+"/run'\n[cache]\nscratch = 'tmpfs'\n"), 0o600))
	cfg, err := config.Load(path)
	require.NoError(t, err)
	for range 2 { // the second time finds the journal free
		_, err = assemble(cfg, zerolog.Nop())
		require.ErrorContains(t, err, "install airlock-agent beside airlock-executor")
		require.Equal(t, fault.Admin, fault.ClassOf(err))
	}
}
