package layout

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWalkedPathsLeadWhereTheKernelLeads compares the walk with openat2(2), over a tree that is full of links, some of which
// try to leave it.
func TestWalkedPathsLeadWhereTheKernelLeads(t *testing.T) {
	root := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", ".."}
	anyPath := func() string {
		parts := make([]string, 1+random.IntN(5))
		for i := range parts {
			parts[i] = names[random.IntN(len(names))]
		}
		return strings.Repeat("/", random.IntN(2)) + strings.Join(parts, "/") + []string{"", "", "/", "/."}[random.IntN(4)]
	}
	for _, dir := range []string{"a/a", "a/b", "b/a", "b/c/b"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for range 30 {
		at := filepath.Join(root, filepath.Join("/", anyPath()))
		if random.IntN(2) == 0 {
			_ = os.WriteFile(at, nil, 0o644) // what cannot be made is not in the tree
		} else {
			_ = os.Symlink(anyPath(), at)
		}
	}
	_ = os.Symlink("loop", filepath.Join(root, "loop"))
	_ = os.Symlink("/etc/passwd", filepath.Join(root, "passwd"))
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(rootFD)) }()

	before, found := openFiles(t), 0
	for n := range 5000 {
		path := anyPath()
		if n < 3 {
			path = []string{"loop", "passwd", ""}[n]
		}
		for _, flags := range []int{unix.O_PATH, unix.O_PATH | unix.O_NOFOLLOW, unix.O_RDONLY | unix.O_NONBLOCK, unix.O_PATH | unix.O_DIRECTORY} {
			for _, resolve := range []uint64{0, unix.RESOLVE_NO_SYMLINKS, unix.RESOLVE_NO_XDEV} {
				if strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.") {
					flags = flags&^unix.O_NOFOLLOW | unix.O_DIRECTORY // which the walk does not read off a path
				}
				what := fmt.Sprintf("%q with flags %#x and %#x", path, flags, resolve)
				kernel, want := unix.Openat2(rootFD, path, &unix.OpenHow{
					Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
				})
				if path == "" {
					want = nil
					kernel, err = unix.Openat(rootFD, ".", flags|unix.O_CLOEXEC, 0)
					require.NoError(t, err)
				}
				walked, err := walkIn(rootFD, path, flags, resolve)
				require.Equal(t, want, err, what)
				if want != nil {
					continue
				}
				found++
				require.Equal(t, inode(t, kernel), inode(t, walked), what)
				require.NoError(t, unix.Close(kernel))
				require.NoError(t, unix.Close(walked))
			}
		}
	}
	require.Greater(t, found, 1000)
	require.Equal(t, before, openFiles(t), "every directory on the way was closed")
}

func TestWalkedPathsStayOnTheFileSystemAndOutOfMagicLinks(t *testing.T) {
	rootFD, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(rootFD)) }()
	for path, want := range map[string]error{
		"/proc/self/root/etc": unix.ELOOP, "/proc/self/exe": unix.ELOOP, "/proc/self/fd/0": unix.ELOOP, "/proc/self/stat": nil,
	} {
		fd, err := walkIn(rootFD, path, unix.O_RDONLY, 0)
		if want == nil {
			require.NoError(t, err, path)
			require.NoError(t, unix.Close(fd))
			continue
		}
		require.Equal(t, -1, fd, path)
		if path != "/proc/self/fd/0" { // a pipe's text is no path, and leads nowhere
			require.ErrorIs(t, err, want, path)
		}
	}
	_, err = walkIn(rootFD, "/proc/self/stat", unix.O_RDONLY, unix.RESOLVE_NO_XDEV)
	require.ErrorIs(t, err, unix.EXDEV)
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(fd, &st))
	return st.Ino
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
