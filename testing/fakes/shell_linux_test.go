package fakes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

func TestShellRuntimeConforms(t *testing.T) {
	image, helper := t.TempDir(), t.TempDir()
	require.NoError(t, rootfs.Busybox(image))
	require.NoError(t, rootfs.Busybox(helper))
	require.NoError(t, os.WriteFile(filepath.Join(helper, conformance.HelperMarker), nil, 0o644))
	conformance.TestRuntime(t, func(testing.TB) conformance.RuntimeEnv {
		world, scratches := NewWorld(), map[string]string{}
		return conformance.RuntimeEnv{
			New: func(testing.TB) isolation.Runtime { return world.ShellRuntime(isolation.ProcessLevel) },
			Spec: func(t testing.TB) isolation.Spec {
				spec := conformance.Spec(t, image, helper)
				scratches[spec.ID] = spec.ScratchDir
				return spec
			},
			BaseFingerprint: func(t testing.TB) string {
				return conformance.Fingerprint(t, image, helper)
			},
			ScratchHas: func(_ testing.TB, spec isolation.Spec, path string) bool {
				_, err := os.Lstat(filepath.Join(spec.ScratchDir, "upper", path))
				return err == nil
			},
			Leftovers: func(t testing.TB, id string) []string { return leftovers(t, world, id, scratches[id]) },
			Deviations: map[string]string{
				"interactive processes outlive a stage": "a stage sees no process but its own, so the suite cannot find the session",
				"sandboxes do not see each other":       "a stage sees no process but its own, so the suite cannot find the neighbour's",
				"no network":                            "the network is this machine's",
				"localhost":                             "its names are this machine's",
				"ping":                                  "users have no capabilities",
				"caches of several users":               "users have no capabilities",
				"nothing that a job does stops the next stages": "there is no agent that makes its directory anew",
				"a shell that the job removed":                  "there is no agent that could tell",
				"directories that the user cannot enter":        "a stage is root when it changes its directory",
				"odd users and working directories":             "it looks up no users",
				"streams by name":                               "the streams are those of the test's process",
				"limits of each process":                        "nothing is limited",
				"odd images are the author's failure":           "it looks into no image",
				"memory limit":                                  "nothing is limited",
				"process limit":                                 "nothing is limited",
				"cpu limit":                                     "nothing is limited",
			},
		}
	})
}

// leftovers are the traces of one sandbox: in the world, in its scratch, and in processes that mounted it.
func leftovers(t testing.TB, w *World, id, scratch string) []string {
	left := slices.DeleteFunc(w.Leftovers(), func(line string) bool { return !strings.Contains(line, id) })
	if scratch == "" {
		return left // it was given another id than its own
	}
	entries, err := os.ReadDir(scratch)
	require.NoError(t, err)
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	tables, err := filepath.Glob("/proc/[0-9]*/mounts")
	require.NoError(t, err)
	for _, table := range tables {
		if mounts, err := os.ReadFile(table); err == nil && strings.Contains(string(mounts), scratch) {
			left = append(left, table)
		}
	}
	return left
}
