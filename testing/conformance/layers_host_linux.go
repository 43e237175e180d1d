package conformance

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountJob makes a scratch and mounts what a job would see: an overlay of base and scratch.
func (w *layersWorld) mountJob(layers Layers, dirs []string, id string) string {
	scratch, err := layers.NewScratch(w.Context(), id, scratchSize)
	require.NoError(w, err)
	for _, sub := range []string{"upper", "work"} {
		require.NoError(w, os.Mkdir(filepath.Join(scratch, sub), 0o755))
	}
	root := filepath.Join(w.TempDir(), "root")
	require.NoError(w, os.Mkdir(root, 0o755))
	require.NoError(w, unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work",
		strings.Join(dirs, ":"), scratch, scratch)))
	return root
}

// mountDisk mounts a base's disk until the test ends, as a guest does.
func (w *layersWorld) mountDisk(disk string) string {
	root := w.TempDir()
	w.run("mount", "-t", "ext4", "-o", "ro,loop", disk, root)
	w.Cleanup(func() { unmount(w.TB, root) })
	return root
}

// mountWritable mounts a scratch's disk.
func (w *layersWorld) mountWritable(disk string) string {
	root := w.TempDir()
	w.run("mount", "-t", "ext4", "-o", "loop", disk, root)
	return root
}

func (w *layersWorld) run(name string, args ...string) {
	w.Helper()
	out, err := exec.CommandContext(w.Context(), name, args...).CombinedOutput()
	require.NoError(w, err, string(out))
}

func unmount(t testing.TB, path string) {
	require.NoError(t, unix.Unmount(path, 0))
}

// Fingerprint changes when anything in the directories does: names, modes, owners, times, contents.
func Fingerprint(t testing.TB, dirs ...string) string {
	hash := sha256.New()
	for _, dir := range dirs {
		require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			owner := info.Sys().(*syscall.Stat_t)
			fmt.Fprintln(hash, path, info.Mode(), info.Size(), info.ModTime(), owner.Uid, owner.Gid, owner.Rdev, owner.Nlink)
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(path)
				_, _ = hash.Write(content)
				return err
			}
			return nil
		}))
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

// requireNothingLeft checks that no mount and no loop device of the test remains. Both may take a moment to go
// after their last user.
func (w *layersWorld) requireNothingLeft() {
	var left []string
	for range 100 {
		if left = append(mountsBelow(w.TB, w.options.RunDir), loopsBelow(w.TB, w.options.Dir)...); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.Empty(w, left)
}

func mountsBelow(t testing.TB, dir string) (found []string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	return found
}

func loopsBelow(t testing.TB, dir string) (found []string) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	require.NoError(t, err)
	for _, file := range files {
		if backing, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(backing), dir) {
			found = append(found, file+": "+string(backing))
		}
	}
	return found
}

// holdsFile reports whether a file of that name is anywhere below dir.
func holdsFile(dir, name string) (found bool) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		found = found || err == nil && entry.Name() == name
		return nil // what vanishes meanwhile is not there
	})
	return found
}
