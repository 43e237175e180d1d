package agent_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/isolation/agent"
)

// BenchmarkStartToHello is what a sandbox pays for its agent: from fork to the answered greeting.
func BenchmarkStartToHello(b *testing.B) {
	for b.Loop() {
		ours, theirs := socketpair(b)
		cmd := exec.Command(binary)
		cmd.ExtraFiles = []*os.File{theirs}
		require.NoError(b, cmd.Start())
		theirs.Close()
		client, err := agent.Greet(b.Context(), ours)
		require.NoError(b, err)
		b.StopTimer()
		client.Close()
		require.NoError(b, cmd.Wait())
		b.StartTimer()
	}
}

// BenchmarkEmptyProgram is the yardstick: a Go program that does nothing, from fork to exit.
func BenchmarkEmptyProgram(b *testing.B) {
	dir := b.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(b, os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644))
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, "empty"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(b, err, string(out))
	for b.Loop() {
		require.NoError(b, exec.Command(filepath.Join(dir, "empty")).Run())
	}
}

// BenchmarkStage is one short stage in a sandbox that runs.
func BenchmarkStage(b *testing.B) {
	s := startSandbox(b, sandboxOptions{})
	b.ResetTimer()
	for b.Loop() {
		s.run(isolation.ProcessSpec{Script: []byte("true")})
	}
}

// BenchmarkOutput measures the throughput of one stage's output.
func BenchmarkOutput(b *testing.B) {
	s := startSandbox(b, sandboxOptions{})
	const size = 64 << 20
	b.SetBytes(size)
	b.ResetTimer()
	for b.Loop() {
		p, err := s.Start(b.Context(), isolation.ProcessSpec{Stdout: io.Discard, Script: []byte("dd if=/dev/zero bs=64k count=1024 2>/dev/null")})
		require.NoError(b, err)
		_, err = p.Wait()
		require.NoError(b, err)
	}
}
