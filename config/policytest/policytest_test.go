package policytest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/config"
	"github.com/airlock-ci/airlock/config/policytest"
	"github.com/airlock-ci/airlock/internal/fault"
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

// TestBadSuites has what is wrong with a file of tests.
func TestBadSuites(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "has no tests",
		"[[test]\n":                           ":1:7: ",
		"[[test]]\nname = 5\n":                ":2:8: ",
		"[[test]]\nnmae = 'x'\n":              ":2:1: unknown key test.nmae",
		"[[test]]\n[test.expect]\nrule = 'x'": `test 1, "": it has no name`,
		"[[test]]\nname = 'x'\n":              `test 1, "x": it expects nothing`,
		"[[test]]\nname = 'x'\n[test.expect]\nruel = 'x'":                                                 `unknown key "ruel"`,
		"[[test]]\nname = 'x'\nresponse = 'none.json'\n[test.expect]\nrule = 'x'":                         "none.json: no such file",
		"[[test]]\nname = 'x'\nresponse = 'bad.json'\n[test.expect]\nrule = 'x'":                          "JSON syntax error",
		"[[test]]\nname = 'x'\nresponse = 'bad.json'\n[test.variables]\nA='1'\n[test.expect]\nrule = 'x'": "bad.json: invalid",
		"[[test]]\nname = 'x'\n[test.job]\nid = 0\n[test.expect]\nrule = 'x'":                             "no positive job id",
		"[[test]]\nname = 'x'\n[test.id_token]\nref = 5\n[test.expect]\nrule = 'x'":                       "the claims are not those of GitLab",
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.json"), []byte("x"), 0o600))
		path := filepath.Join(dir, "x.test.toml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := policytest.Load(path)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, path, text)
		require.Equal(t, fault.Admin, fault.ClassOf(err), text)
	}
}
