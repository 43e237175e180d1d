package policytest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/executor/config"
	"github.com/airlock-ci/airlock/executor/policytest"
)

const policies = "../../docs/policies"

// TestShippedPolicies runs the tests of every ready-made policy, and wants no warnings about it.
func TestShippedPolicies(t *testing.T) {
	files, err := filepath.Glob(policies + "/*.toml")
	require.NoError(t, err)
	tested := 0
	for _, path := range files {
		if strings.HasSuffix(path, ".test.toml") {
			continue
		}
		tested++
		t.Run(filepath.Base(path), func(t *testing.T) {
			cfg, err := config.Load(path)
			require.NoError(t, err)
			require.NotNil(t, cfg.Policy)
			require.Empty(t, cfg.Policy.Warnings)
			suite, err := policytest.Load(strings.TrimSuffix(path, ".toml") + ".test.toml")
			require.NoError(t, err)
			for _, r := range suite.Run(cfg.Policy.Policy) {
				require.Empty(t, r.Problems, r.Name)
			}
		})
	}
	require.GreaterOrEqual(t, tested, 4)
}

// TestASuiteCanFail: each kind of expectation is compared.
func TestASuiteCanFail(t *testing.T) {
	cfg, err := config.Load(filepath.Join(policies, "open-source.toml"))
	require.NoError(t, err)
	for expect, want := range map[string]string{
		`isolation = "process"`:     `isolation is "hypervisor", want "process"`,
		`rule = "x"`:                `rule is "merge-requests", want "x"`,
		`reject = true`:             `reject is false, want true`,
		`memory_bytes = 1`:          `memory_bytes is 2147483648, want 1`,
		`timeout_seconds = 1`:       `timeout_seconds is 3600, want 1`,
		`network = "none"`:          `network is "nat", want "none"`,
		`pull_policies = ["never"]`: `pull_policies is ["always"], want ["never"]`,
	} {
		path := filepath.Join(t.TempDir(), "x.test.toml")
		require.NoError(t, os.WriteFile(path, []byte("[[test]]\nname = 'x'\n[test.expect]\n"+expect+"\n"), 0o600))
		suite, err := policytest.Load(path)
		require.NoError(t, err)
		require.Equal(t, want, suite.Run(cfg.Policy.Policy)[0].Problems[0])
	}
}
