package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
)

// BenchmarkCreate is the time until a sandbox with limits and a helper root answers; its destruction is reported
// apart. BenchmarkBareCrun beside it is the least that crun itself takes.
func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	runtime, err := New(Options{
		Runtime: "crun", AgentPath: shared.agent, RunDir: filepath.Join(dir, "run"),
		CgroupParent: fmt.Sprintf("%s/%d-bench", testParent, os.Getpid()), Logger: zerolog.Nop(),
	})
	require.NoError(b, err)
	var destroying time.Duration
	for n := 0; b.Loop(); n++ {
		scratch := filepath.Join(dir, fmt.Sprint("scratch-", n))
		require.NoError(b, os.Mkdir(scratch, 0o755))
		sandbox, err := runtime.Create(b.Context(), isolation.Spec{
			ID: fmt.Sprintf("al-%012d", n), Hostname: "sandbox", ScratchDir: scratch,
			Image:  isolation.Root{Layers: []string{shared.image}},
			Helper: &isolation.Root{Layers: []string{shared.helper}},
			Limits: isolation.Limits{Memory: 1 << 30, CPUs: 2, PIDs: 1000},
		})
		require.NoError(b, err)
		b.StopTimer()
		began := time.Now()
		require.NoError(b, sandbox.Destroy(b.Context()))
		destroying += time.Since(began)
		b.StartTimer()
	}
	b.ReportMetric(float64(destroying.Nanoseconds())/float64(b.N), "ns/destroy")
}

// BenchmarkBareCrun is `crun run` of busybox true in namespaces of its own, with nothing else in the bundle.
func BenchmarkBareCrun(b *testing.B) {
	bundle := b.TempDir()
	document, err := json.Marshal(&specs.Spec{
		Version: specVersion,
		Root:    &specs.Root{Path: shared.image, Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:   &specs.Linux{Namespaces: namespaces(""), CgroupsPath: fmt.Sprintf("/%s/bare-%d", testParent, os.Getpid())},
	})
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(bundle, "config.json"), document, 0o600))
	for b.Loop() {
		out, err := exec.Command("crun", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, fmt.Sprintf("bare-%d", os.Getpid())).CombinedOutput()
		require.NoError(b, err, "%s", out)
	}
}
