package layer

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/image"
	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/space"
)

// A guest must see of an image exactly what a container sees of it.
func TestDiskEqualsTheOverlay(t *testing.T) {
	old := time.Unix(1_234_567_890, 123_456_789)
	with := func(e entry, change func(h *tar.Header)) entry {
		e.ModTime = old
		change(&e.Header)
		return e
	}
	deep := strings.Repeat("a-directory-deep-down/", 150) // longer, with the layer's own path, than PATH_MAX
	many := func(from, to int) (files []entry) {
		for i := from; i < to; i++ {
			files = append(files, file(fmt.Sprintf("many/%s-%d", strings.Repeat("n", 100), i), fmt.Sprint(i)))
		}
		return files
	}
	for name, layers := range map[string][][]entry{ // lowest first
		"nothing":     {},
		"empty layer": {{}},
		"attributes": {{
			with(dir("./"), func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o711, 3, 4 }),
			with(file("bin/su", "#!"), func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o6755, 0, 12 }),
			with(file("huge-ids", ""), func(h *tar.Header) { h.Uid, h.Gid = 4_000_000_000, 70_000 }),
			with(dir("tmp"), func(h *tar.Header) { h.Mode = 0o1777 }),
			with(file("ping", "x"), func(h *tar.Header) {
				h.PAXRecords = map[string]string{
					"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
					"SCHILY.xattr.user.long":           strings.Repeat("v", 2000),
					"SCHILY.xattr.user.empty":          "",
				}
			}),
			with(dir("labelled"), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }),
			with(entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}}, func(h *tar.Header) { h.Mode, h.Uid = 0o620, 5 }),
			with(link(tar.TypeSymlink, "link", "target"), func(h *tar.Header) { h.Uid, h.Gid = 6, 7 }),
			link(tar.TypeSymlink, "long-link", strings.Repeat("x/", 1000)),
			file("zero", ""), file("a b\nc\xff", "odd name"), file("executable", strings.Repeat("y", 70_000)),
			with(file("future", ""), func(h *tar.Header) { h.ModTime = time.Unix(9_000_000_000, 0) }),
			with(file("never", ""), func(h *tar.Header) { h.ModTime = time.Unix(9_000_000_000_000, 0) }),
			with(dir("never-dir"), func(h *tar.Header) { h.ModTime = time.Unix(-9_000_000_000_000, 0) }),
			with(file("attributes", "x"), func(h *tar.Header) {
				h.PAXRecords = map[string]string{
					"SCHILY.xattr.user.fits":                        strings.Repeat("v", 3000),
					"SCHILY.xattr.user.huge":                        strings.Repeat("v", 60_000),
					"SCHILY.xattr.user.vast":                        strings.Repeat("v", 70_000),
					"SCHILY.xattr.user.":                            "nameless",
					"SCHILY.xattr.user." + strings.Repeat("n", 300): "v",
				}
			}),
			file("lost+found/of-the-image", "1"),
		}},
		"links": {
			{file("a", "linked"), link(tar.TypeLink, "b", "a"), link(tar.TypeLink, "d/c", "a"), link(tar.TypeSymlink, "s", "a"),
				link(tar.TypeLink, "s2", "s"), file("p", "pair"), link(tar.TypeLink, "q", "p")},
			{file("b", "no more"), file(".wh.p", "")},
		},
		"whiteouts": {
			{dir("d"), file("d/gone", "1"), file("d/kept", "1"), dir("e"), file("e/gone", "1"), file("f", "1"), file("x/y/z", "1"),
				file("g/1", ""), file("never", "1")},
			{file("d/.wh.gone", ""), file("e/.wh..wh..opq", ""), file("e/new", "2"), file(".wh.f", ""), file(".wh.x", ""), dir("x"),
				file("x/w", "2"), file(".wh.none", "")},
			{file("f", "again"), dir("d/gone"), file("d/gone/in", "3"), file(".wh.g", "")},
			{file("g/2", "after all")},
		},
		"kinds change": {
			{file("a", "file"), dir("b"), file("b/x", ""), link(tar.TypeSymlink, "c", "b"), dir("d"), file("d/low", "")},
			{dir("a"), file("a/x", ""), file("b", "file"), dir("c"), file("c/x", ""), file("d", "between")},
			{dir("d"), file("d/high", "")},
		},
		"attributes of the upper directory": {
			{with(dir("d"), func(h *tar.Header) { h.Mode = 0o700 }), file("d/x", "")},
			{with(dir("d"), func(h *tar.Header) { h.Mode, h.Uid = 0o751, 9 }), file("d/y", "")},
		},
		"deep":       {{file(deep+"x", "low")}, {file(deep+"y", "high")}},
		"many files": {many(0, 1500), many(1000, 2500)},
	} {
		t.Run(name, func(t *testing.T) { requireDiskEqualsOverlay(t, unpackAll(t, layers)) })
	}
	t.Run("many layers", func(t *testing.T) {
		var layers [][]entry
		for i := range image.MaxLayers {
			layers = append(layers, []entry{file("same", fmt.Sprint(i)), file(fmt.Sprint("d/", i), ""), file(fmt.Sprint("d/.wh.", i-2), "")})
		}
		requireDiskEqualsOverlay(t, unpackAll(t, layers))
	})
	t.Run("a large sparse file", func(t *testing.T) {
		layer := filepath.Join(t.TempDir(), "fs")
		require.NoError(t, os.Mkdir(layer, 0o755))
		f, err := os.Create(filepath.Join(layer, "large"))
		require.NoError(t, err)
		const size = 4<<30 + 5<<20 + 1
		require.NoError(t, f.Truncate(size))
		places := []int64{0, 1 << 30, 4<<30 - 3, size - 7}
		for _, at := range places {
			_, err := f.WriteAt([]byte("content"), at)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		disk := makeTestDisk(t, []string{layer})
		info, err := os.Stat(disk)
		require.NoError(t, err)
		require.Less(t, space.Allocated(info), int64(4<<20), "sparse here too")
		copied, err := os.Open(filepath.Join(mountTestDisk(t, disk), "large"))
		require.NoError(t, err)
		defer copied.Close()
		end, err := copied.Seek(0, io.SeekEnd)
		require.NoError(t, err)
		require.EqualValues(t, size, end)
		for _, at := range places {
			content := make([]byte, 7)
			_, err := copied.ReadAt(content, at)
			require.NoError(t, err)
			require.Equal(t, "content", string(content))
		}
	})
}

// unpackAll returns the directories of unpacked layers, upper-most first.
func unpackAll(t testing.TB, layers [][]entry) (dirs []string) {
	for _, entries := range layers {
		target := filepath.Join(t.TempDir(), "fs")
		found, err := unpack(t.Context(), target, strings.NewReader(string(archive(t, entries...))), space.NewBudget(space.Use{Bytes: 1 << 30, Inodes: 100_000}, nil))
		require.NoError(t, err)
		require.NoError(t, settle(t.Context(), target, dirs, found.dependent))
		dirs = slices.Insert(dirs, 0, target)
	}
	return dirs
}

func makeTestDisk(t testing.TB, layers []string) string {
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, disk.Write(t.Context(), file, layers, anyRoom))
	size, err := disk.Finish(file)
	require.NoError(t, err)
	info, err := file.Stat()
	require.NoError(t, err)
	require.EqualValues(t, disk.Size, info.Size())
	require.Equal(t, "-r--r--r--", info.Mode().String())
	require.Less(t, size, int64(64<<20))
	// The converter leaves the padding of its inode bitmaps clear, which only this program minds.
	out, _ := exec.Command("e2fsck", "-fn", file.Name()).CombinedOutput()
	require.Contains(t, string(out), "Pass 5")
	require.NotContains(t, strings.ReplaceAll(string(out), "Padding at end of inode bitmap is not set. Fix? no", ""), "? no")
	return file.Name()
}

func mountTestDisk(t testing.TB, disk string) string {
	root := t.TempDir()
	device, err := scratch.AttachLoop(disk)
	require.NoError(t, err)
	defer device.Close()
	require.NoError(t, unix.Mount(device.Name(), root, "ext4", unix.MS_RDONLY, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(root, 0)) })
	return root
}

func requireDiskEqualsOverlay(t *testing.T, layers []string) {
	fromDisk := inventory(t, mountTestDisk(t, makeTestDisk(t, layers)))
	fromOverlay := inventory(t, mountOverlay(t, layers))
	if _, ofImage := fromOverlay["lost+found"]; !ofImage {
		require.Contains(t, fromDisk, "lost+found")
		delete(fromDisk, "lost+found")
	}
	if len(layers) == 0 { // the overlay shows a directory of the test's
		delete(fromDisk, ".")
		delete(fromOverlay, ".")
	}
	require.Equal(t, fromOverlay, fromDisk)
}

// mountOverlay shows layers as a container sees them. Two lower directories are the least that an overlay can have.
func mountOverlay(t testing.TB, layers []string) string {
	root := t.TempDir()
	lower := make([]string, 0, len(layers)+2)
	for _, dir := range append(slices.Clone(layers), t.TempDir(), t.TempDir()) {
		f, err := os.Open(dir)
		require.NoError(t, err)
		defer f.Close()
		lower = append(lower, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	}
	require.NoError(t, unix.Mount("overlay", root, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(root, 0)) })
	return root
}

// inventory describes everything in a tree that a job could tell.
func inventory(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	first := map[uint64]string{}
	// os.Root knows no limit of path lengths.
	dir, err := os.OpenRoot(root)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, fs.WalkDir(dir.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		parent, err := dir.Open(filepath.Dir(name))
		if err != nil {
			return err
		}
		defer parent.Close()
		var st unix.Stat_t
		base := filepath.Base(name)
		if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %s", st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Sec, st.Mtim.Nsec).UTC())
		if !d.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			text += fmt.Sprintf(" %d bytes, is %q", st.Size, first[st.Ino])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := dir.Readlink(name)
			if err != nil {
				return err
			}
			text += " -> " + target
		case unix.S_IFREG, unix.S_IFDIR:
			f, err := dir.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			text += attributesOf(t, f)
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				hash := sha256.New()
				_, err := io.Copy(hash, f)
				require.NoError(t, err)
				text += fmt.Sprintf(" %x", hash.Sum(nil)[:4])
			}
		}
		found[name] = text
		return nil
	}))
	return found
}

func attributesOf(t testing.TB, f *os.File) string {
	list := make([]byte, 4096)
	n, err := unix.Flistxattr(int(f.Fd()), list)
	require.NoError(t, err)
	var all []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		require.NoError(t, err)
		all = append(all, fmt.Sprintf(" %s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

func TestTimesBefore1970BecomeThat(t *testing.T) {
	e := file("old", "")
	e.ModTime = time.Unix(-1000, 500)
	layers := unpackAll(t, [][]entry{{e}})
	for _, root := range []string{mountTestDisk(t, makeTestDisk(t, layers)), mountOverlay(t, layers)} {
		info, err := os.Stat(filepath.Join(root, "old"))
		require.NoError(t, err)
		require.EqualValues(t, 0, info.ModTime().Unix())
	}
}

func anyRoom(space.Use) error { return nil }
