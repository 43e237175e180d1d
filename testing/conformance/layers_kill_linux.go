package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/failpoint"
)

// layersChild makes a test binary play a process that is killed; its value is the image to take.
const layersChild = "AIRLOCK_CONFORMANCE_LAYERS_CHILD"

const childSandbox, childGuest = "al-killed", "al-killed-guest"

// playLayersChild takes a base and a scratch, in each form that there is, says so, and waits to be killed.
func playLayersChild(t testing.TB, open func(LayersOptions) (Layers, error)) {
	registry, _, _ := strings.Cut(os.Getenv(layersChild), "/")
	layers, err := open(LayersOptions{Dir: os.Getenv("LAYERS_DIR"), RunDir: os.Getenv("LAYERS_RUN_DIR"), Registry: registry})
	require.NoError(t, err)
	_, _, err = layers.Base(t.Context(), os.Getenv(layersChild), "always", childSandbox, nil)
	require.NoError(t, err)
	dir, err := layers.NewScratch(t.Context(), childSandbox, scratchSize)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600))
	if disks, ok := layers.(Disks); ok {
		_, err = disks.Disk(t.Context(), os.Getenv(layersChild), childSandbox)
		require.NoError(t, err)
		_, err = disks.NewScratchDisk(t.Context(), childGuest, scratchSize)
		require.NoError(t, err)
	}
	fmt.Println("\nREADY") // go test's own lines come before
	select {}
}

// child starts the process that will be killed, and returns what it says.
func (w *layersWorld) child(image string, ownNamespace bool, environment ...string) (*exec.Cmd, io.Reader) {
	ctx, cancel := context.WithTimeoutCause(w.Context(), time.Minute, errors.New("the child took longer than a minute"))
	w.Cleanup(cancel)
	top, _, _ := strings.Cut(w.Name(), "/")
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+regexp.QuoteMeta(top)+"$", "-test.v")
	cmd.Env = append(os.Environ(), layersChild+"="+image, "LAYERS_DIR="+w.options.Dir, "LAYERS_RUN_DIR="+w.options.RunDir)
	cmd.Env = append(cmd.Env, environment...)
	if ownNamespace {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	}
	output, err := cmd.StdoutPipe()
	require.NoError(w, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(w, cmd.Start())
	return cmd, output
}

func (w *layersWorld) kill(cmd *exec.Cmd) {
	require.NoError(w, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
}

func layersKilledInPull(w *layersWorld) {
	image := w.registry.push("half", layersLayer(w.TB, "small", "x"), layersLayer(w.TB, "large", incompressible(4<<20)))
	reached := w.registry.stallLayers()
	cmd, output := w.child(image, true)
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		require.NoError(w, cmd.Process.Kill())
		said, _ := io.ReadAll(output)
		require.Fail(w, "the child did not pull", string(said))
	}
	time.Sleep(50 * time.Millisecond) // let it unpack what it has
	w.kill(cmd)
	w.registry.stopStalling()

	layers := w.start()
	n, err := layers.Images(w.Context())
	require.NoError(w, err)
	require.Zero(w, n)
	require.Zero(w, layers.Used())
	_, _, err = layers.Base(w.Context(), image, "never", "al-1", nil)
	require.Error(w, err, "half an image is none")
	require.Eventually(w, func() bool { return !holdsFile(w.options.Dir, "large") }, 10*time.Second, 10*time.Millisecond)
	dirs := w.base(layers, image, "al-1")
	require.FileExists(w, filepath.Join(dirs[0], "large"))
	require.FileExists(w, filepath.Join(dirs[1], "small"))
}

// layersKilledWithScratch kills a process that has a scratch, in a mount namespace of its own or in the test's.
func layersKilledWithScratch(ownNamespace bool) func(w *layersWorld) {
	return func(w *layersWorld) {
		cmd, output := w.child(w.registry.push("image", layersLayer(w.TB, "f", "x")), ownNamespace)
		var said strings.Builder
		scanner := bufio.NewScanner(output)
		for scanner.Scan() && scanner.Text() != "READY" {
			fmt.Fprintln(&said, scanner.Text())
		}
		w.kill(cmd)
		require.NoError(w, scanner.Err(), said.String())

		layers := w.start()
		ids, err := layers.Scratches(w.Context())
		require.NoError(w, err)
		want := []string{childSandbox}
		if _, ok := layers.(Disks); ok {
			want = append(want, childGuest)
		}
		require.Equal(w, want, ids, said.String())
		for _, id := range ids {
			require.NoError(w, layers.DestroyScratch(w.Context(), id))
		}
		ids, err = layers.Scratches(w.Context())
		require.NoError(w, err)
		require.Empty(w, ids)
	}
}

func layersKilledAt(w *layersWorld, point string) {
	image := w.registry.push("image", layersLayer(w.TB, "f", "x"))
	cmd, output := w.child(image, false, failpoint.Variable+"="+point+"=kill")
	said, err := io.ReadAll(output)
	require.NoError(w, err)
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(w, ok && status.Signal() == syscall.SIGKILL, "the point was not passed: %s", said)

	layers := w.start()
	require.FileExists(w, filepath.Join(w.base(layers, image, "al-1")[0], "f"), "whole, or pulled again")
	ids, err := layers.Scratches(w.Context())
	require.NoError(w, err)
	for _, id := range ids {
		require.Contains(w, []string{childSandbox, childGuest}, id)
		require.NoError(w, layers.DestroyScratch(w.Context(), id))
	}
	dir, err := layers.NewScratch(w.Context(), childSandbox, scratchSize)
	require.NoError(w, err, "the same input succeeds")
	require.NoFileExists(w, filepath.Join(dir, "f"))
	require.NoError(w, layers.DestroyScratch(w.Context(), childSandbox))
	if _, ok := layers.(Disks); ok {
		require.Equal(w, "x", readString(w.TB, w.mountDisk(w.disk(layers, image, "al-1")), "f"), "whole, or made again")
	}
}
