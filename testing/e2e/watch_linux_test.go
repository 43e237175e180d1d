package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// counter counts the zero bytes in what is written to it.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += bytes.Count(p, []byte{0})
	return len(p), nil
}

// watchMemory returns a function that tells the peak memory of host and executor from now on, in KiB.
func (b *bench) watchMemory() func() map[string]int64 {
	b.t.Helper()
	executor, err := b.ExecutorPID()
	require.NoError(b.t, err)
	for _, pid := range []int{b.HostPID(), executor} {
		require.NoError(b.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0), "proc_pid_clear_refs(5)")
	}
	return func() map[string]int64 {
		return map[string]int64{"host": peakMemory(b.t, b.HostPID()), "executor": peakMemory(b.t, executor)}
	}
}

func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			require.NoError(t, err)
			return kib
		}
	}
	t.Fatalf("process %d tells no peak", pid)
	return 0
}

// scratchImage is an image without a shell.
func scratchImage(t *testing.T) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Size: 0, Typeflag: tar.TypeReg}))
	require.NoError(t, w.Close())
	return imageOfTar(t, layer.Bytes())
}

// sparseImage has a file of 1 TiB in a layer of some kilobytes.
func sparseImage(t *testing.T) v1.Image {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), nil, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(dir, "large"), 1<<40))
	layer, err := exec.CommandContext(t.Context(), "tar", "--sparse", "-C", dir, "-c", "large").Output()
	require.NoError(t, err)
	return imageOfTar(t, layer)
}

func imageOfTar(t *testing.T, layer []byte) v1.Image {
	t.Helper()
	content, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	require.NoError(t, err)
	image, err := mutate.AppendLayers(empty.Image, content)
	require.NoError(t, err)
	return image
}
