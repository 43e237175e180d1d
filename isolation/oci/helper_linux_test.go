package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// TestGitLabRunnerIsFoundInEveryHelperImage runs it by the name that the runner's scripts use.
func TestGitLabRunnerIsFoundInEveryHelperImage(t *testing.T) {
	for name, tc := range map[string]struct {
		programs []string // in /usr/bin
		want     string
	}{
		"GitLab's own":        {[]string{"gitlab-runner-helper"}, "gitlab-runner-helper"},
		"one with its own":    {[]string{"gitlab-runner"}, "gitlab-runner"},
		"one with both":       {[]string{"gitlab-runner-helper", "gitlab-runner"}, "gitlab-runner"},
		"one that lacks both": {nil, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			bench := newBench(t, "crun")
			spec := bench.spec(t)
			layer := t.TempDir()
			require.NoError(t, os.Chmod(layer, 0o755))
			require.NoError(t, os.MkdirAll(filepath.Join(layer, "usr/bin"), 0o755))
			for _, program := range tc.programs {
				require.NoError(t, os.WriteFile(filepath.Join(layer, "usr/bin", program), []byte("#!/bin/sh\necho "+program+"\n"), 0o755))
			}
			spec.Helper.Layers = append([]string{layer}, spec.Helper.Layers...)
			var out bytes.Buffer
			p, err := bench.box(t, spec).Start(t.Context(), isolation.ProcessSpec{
				Helper: true, Script: []byte("command -v gitlab-runner >/dev/null && gitlab-runner || echo missing"), Stdout: &out,
			})
			require.NoError(t, err)
			_, err = p.Wait()
			require.NoError(t, err)
			require.Equal(t, tc.want+"\n", out.String())
		})
	}
}
