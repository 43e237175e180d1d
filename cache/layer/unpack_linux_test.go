package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
	"github.com/airlock-ci/airlock/internal/fault"
)

// entry is a tar entry for tests: a header and its content.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content: content}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func link(flag byte, name, target string) entry {
	return entry{Header: tar.Header{Typeflag: flag, Name: name, Linkname: target, Mode: 0o777}}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		if e.Size == 0 {
			e.Size = int64(len(e.content))
		}
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1_500_000_000, 0)
		}
		e.Format = tar.FormatPAX
		require.NoError(t, w.WriteHeader(&e.Header))
		_, err := w.Write([]byte(e.content))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func unpackTo(t testing.TB, data []byte) (string, error) {
	t.Helper()
	target := filepath.Join(t.TempDir(), "fs")
	_, err := unpack(context.Background(), target, bytes.NewReader(data), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 1000}, nil))
	return target, err
}

// listing describes a tree in words: path -> what is there.
func listing(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		switch d.Type() {
		case fs.ModeDir:
			found[name] = "dir"
			value := make([]byte, 8)
			if n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value); err == nil && string(value[:n]) == "y" {
				found[name] = "opaque dir"
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			found[name] = "-> " + target
			return err
		case fs.ModeDevice | fs.ModeCharDevice:
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(path, &st))
			require.Zero(t, st.Rdev, "%s is a real device", name)
			found[name] = "whiteout"
		case fs.ModeNamedPipe:
			found[name] = "fifo"
		default:
			content, err := os.ReadFile(path)
			found[name] = "file " + string(content)
			return err
		}
		return nil
	}))
	return found
}

func TestUnpackMakesOverlaysFormat(t *testing.T) {
	for name, test := range map[string]struct {
		entries []entry
		want    map[string]string
	}{
		"names are made relative to the root": {
			[]entry{file("/abs", "a"), file("../up", "b"), file("./x/../../y", "c"), dir("./")},
			map[string]string{"abs": "file a", "up": "file b", "y": "file c"},
		},
		"missing parents": {
			[]entry{file("a/b/c", "x")}, map[string]string{"a": "dir", "a/b": "dir", "a/b/c": "file x"},
		},
		"the last of equal names wins": {
			[]entry{file("f", "old"), file("f", "new"), dir("d"), file("d/x", "gone"), file("d", "now a file"),
				file("e", "gone"), dir("e"), dir("k"), file("k/kept", "1"), dir("k")},
			map[string]string{"f": "file new", "d": "file now a file", "e": "dir", "k": "dir", "k/kept": "file 1"},
		},
		"an overwritten file leaves its hard links alone": {
			[]entry{file("f", "old"), link(tar.TypeLink, "g", "f"), file("f", "new")},
			map[string]string{"f": "file new", "g": "file old"},
		},
		"links": {
			[]entry{file("a/f", "x"), link(tar.TypeLink, "b/g", "/a/f"), link(tar.TypeSymlink, "s", "/etc/passwd"),
				link(tar.TypeLink, "hs", "s"), link(tar.TypeSymlink, "dangling", "../../..")},
			map[string]string{"a": "dir", "a/f": "file x", "b": "dir", "b/g": "file x", "s": "-> /etc/passwd",
				"hs": "-> /etc/passwd", "dangling": "-> ../../.."},
		},
		"whiteouts": {
			[]entry{dir("d"), file("d/.wh.gone", ""), file("o/.wh..wh..opq", ""), file("o/new", "1"), file(".wh..wh.plnk", "")},
			map[string]string{"d": "dir", "d/gone": "whiteout", "o": "opaque dir", "o/new": "file 1"},
		},
		"a whiteout never hides its own layer": {
			[]entry{file("f", "new"), file(".wh.f", ""), file(".wh.g", ""), file("g", "new"),
				dir("d"), file("d/in", "1"), file(".wh.d", ""), file(".wh.e", ""), dir("e"), file(".wh.i", ""), file("i/in", "1")},
			map[string]string{"f": "file new", "g": "file new", "d": "opaque dir", "d/in": "file 1", "e": "opaque dir",
				"i": "opaque dir", "i/in": "file 1"},
		},
		"devices are left out": {
			[]entry{dir("dev"), {Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3}},
				{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}},
				{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 254}},
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "lib/udev/devices/null", Devmajor: 1, Devminor: 3}},
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/../kmem", Devmajor: 1, Devminor: 2}},
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "looks-like-a-whiteout"}}},
			map[string]string{"dev": "dir", "pipe": "fifo"},
		},
		"paths through links of the layer": {
			[]entry{dir("usr"), dir("usr/lib"), link(tar.TypeSymlink, "lib", "usr/lib"), link(tar.TypeSymlink, "abs", "/usr/lib"),
				file("lib/relative", "1"), file("abs/absolute", "2"), dir("lib/sub"), file("abs/sub/f", "3"),
				link(tar.TypeSymlink, "usr/up", "../../../../usr/./lib/sub/.."), file("usr/up/clamped", "4"),
				link(tar.TypeSymlink, "lib/again", "../lib"), file("lib/again/again/twice", "5"),
				link(tar.TypeLink, "hard", "lib/relative"), link(tar.TypeLink, "abs/hard", "abs/absolute"),
				file("lib/.wh.gone", ""), link(tar.TypeSymlink, "lib/link", "x"), {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "abs/fifo"}}},
			map[string]string{"usr": "dir", "usr/lib": "dir", "lib": "-> usr/lib", "abs": "-> /usr/lib", "usr/lib/relative": "file 1",
				"usr/lib/absolute": "file 2", "usr/lib/sub": "dir", "usr/lib/sub/f": "file 3", "usr/up": "-> ../../../../usr/./lib/sub/..",
				"usr/lib/clamped": "file 4", "usr/lib/again": "-> ../lib", "usr/lib/twice": "file 5", "hard": "file 1",
				"usr/lib/hard": "file 2", "usr/lib/gone": "whiteout", "usr/lib/link": "-> x", "usr/lib/fifo": "fifo"},
		},
		"paths through links that lead to nothing yet": {
			[]entry{link(tar.TypeSymlink, "out", "../outside"), file("out/f", "1"), link(tar.TypeSymlink, "t", "/tmp/x/../y"), file("t/f", "2"),
				link(tar.TypeSymlink, "p", "/proc/self/root"), file("p/f", "3")},
			map[string]string{"out": "-> ../outside", "outside": "dir", "outside/f": "file 1", "t": "-> /tmp/x/../y", "tmp": "dir",
				"tmp/y": "dir", "tmp/y/f": "file 2", "p": "-> /proc/self/root", "proc": "dir", "proc/self": "dir", "proc/self/root": "dir",
				"proc/self/root/f": "file 3"},
		},
		"parents that are links of links": {
			[]entry{dir("a"), link(tar.TypeSymlink, "b", "a"), link(tar.TypeSymlink, "c", "b/../b"), file("c/f", "1"), dir("a/d"),
				link(tar.TypeSymlink, "e", "c/d/.."), file("e/g", "2")},
			map[string]string{"a": "dir", "b": "-> a", "c": "-> b/../b", "a/f": "file 1", "a/d": "dir", "e": "-> c/d/..", "a/g": "file 2"},
		},
		"a link that is replaced is followed no more": {
			[]entry{dir("a"), link(tar.TypeSymlink, "l", "a"), file("l/1", ""), dir("l"), file("l/2", ""), link(tar.TypeSymlink, "m", "a"),
				file("m", "file")},
			map[string]string{"a": "dir", "a/1": "file ", "l": "dir", "l/2": "file ", "m": "file file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			target, err := unpackTo(t, archive(t, test.entries...))
			require.NoError(t, err)
			require.Equal(t, test.want, listing(t, target))
		})
	}
}

func TestUnpackRefusesHostileImages(t *testing.T) {
	long := strings.Repeat("d/", 2200) + "f"
	for name, test := range map[string]struct {
		entries []entry
		message string
	}{
		"a write through a link to itself": {
			[]entry{link(tar.TypeSymlink, "l", "l"), file("l/f", "x")}, "too many symbolic links"},
		"a write through links to each other": {
			[]entry{link(tar.TypeSymlink, "a", "/b/x"), link(tar.TypeSymlink, "b", "a"), file("a/f", "x")}, "too many symbolic links"},
		"a write through a link that grows": {
			[]entry{link(tar.TypeSymlink, "l", strings.Repeat("l/", 1000)), file("l/f", "x")}, "too many symbolic links"},
		"a write through a link to a file": {
			[]entry{file("f", ""), link(tar.TypeSymlink, "l", "f"), file("l/g", "x")}, "leads through"},
		"a link to nothing":           {[]entry{link(tar.TypeSymlink, "l", "")}, "symbolic link to nothing"},
		"a hard link to nothing":      {[]entry{link(tar.TypeLink, "l", "none/there")}, "no file of the same layer"},
		"a hard link to a later file": {[]entry{link(tar.TypeLink, "l", "f"), file("f", "")}, "no file of the same layer"},
		"a hard link to a whiteout":   {[]entry{file(".wh.f", ""), link(tar.TypeLink, "l", "f")}, "no file of the same layer"},
		"a link too long to make":     {[]entry{link(tar.TypeSymlink, "l", strings.Repeat("l", 5000))}, "no file system"},
		"a capability that is none": {[]entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f",
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}}}}, "no file system"},
		"a kind that nobody knows":                 {[]entry{{Header: tar.Header{Typeflag: 'Z', Name: "f"}}}, "unknown type"},
		"directories without entries of their own": {[]entry{file(strings.Repeat("a/", 600)+"x", ""), file(strings.Repeat("b/", 600)+"x", "")}, "unpacks to more than 1 MiB"},
		"a hard link outside": {
			[]entry{link(tar.TypeLink, "stolen", "../sentinel")}, "no file of the same layer"},
		"a hard link through a link": {
			[]entry{link(tar.TypeSymlink, "up", ".."), link(tar.TypeLink, "stolen", "up/sentinel")}, "no file of the same layer"},
		"a hard link to a directory":  {[]entry{dir("d"), link(tar.TypeLink, "l", "d")}, "no file of the same layer"},
		"a hard link to itself":       {[]entry{file("f", "x"), link(tar.TypeLink, "f", "f")}, "no file of the same layer"},
		"a path through a file":       {[]entry{file("f", "x"), file("f/g", "y")}, "leads through"},
		"a whiteout of the parent":    {[]entry{file("d/.wh...", "")}, "whiteout of nothing"},
		"a whiteout of the directory": {[]entry{file("d/.wh..", "")}, "whiteout of nothing"},
		"a nameless whiteout":         {[]entry{file("d/.wh.", "")}, "whiteout of nothing"},
		"the root as a link":          {[]entry{link(tar.TypeSymlink, "./", "/")}, "root directory"},
		"a path nobody can open":      {[]entry{file(long, "x")}, "longer than"},
		"a name nobody can make":      {[]entry{file(strings.Repeat("n", 300), "x")}, "no file system"},
		"more bytes than allowed":     {[]entry{file("big", strings.Repeat("0", 1<<20+1))}, "unpacks to more than 1 MiB"},
		"more bytes than there are":   {[]entry{file("a", strings.Repeat("0", 600<<10)), file("a", strings.Repeat("0", 600<<10))}, "unpacks to more than"},
		"an owner that chown skips":   {[]entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1}}}, "impossible user"},
		"an owner below zero":         {[]entry{{Header: tar.Header{Typeflag: tar.TypeDir, Name: "f", Gid: -1}}}, "impossible user"},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			sentinel := filepath.Join(outside, "sentinel")
			require.NoError(t, os.WriteFile(sentinel, []byte("safe"), 0o600))
			var err error
			if strings.Contains(name, "below zero") {
				err = (&unpacker{left: space.NewBudget(space.Use{Bytes: 1, Inodes: 1}, nil)}).checkEntry(&test.entries[0].Header, "f") // tar.Writer cannot write it
			} else {
				_, err = unpack(t.Context(), filepath.Join(outside, "fs"), bytes.NewReader(archive(t, test.entries...)), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 1000}, nil))
			}
			require.ErrorContains(t, err, test.message)
			require.Equal(t, fault.Author, fault.ClassOf(err))
			require.NoError(t, os.RemoveAll(filepath.Join(outside, "fs")))
			require.Equal(t, map[string]string{"sentinel": "file safe"}, listing(t, outside))
			var st unix.Stat_t
			require.NoError(t, unix.Stat(sentinel, &st))
			require.EqualValues(t, 1, st.Nlink)
		})
	}
}

func TestUnpackRefusesTooManyFiles(t *testing.T) {
	entries := make([]entry, 1001)
	for i := range entries {
		entries[i] = file("same", "")
	}
	_, err := unpackTo(t, archive(t, entries...))
	require.ErrorContains(t, err, "more than 1000 files")
}

func TestUnpackKeepsAttributesExactly(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	when := time.Unix(1_234_567_890, 123456789)
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // cap_net_bind_service=ep
	suid := file("bin/su", "x")
	suid.Mode, suid.Uid, suid.Gid, suid.ModTime = 0o6755, 12, 34, when
	suid.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hi",
		"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y"}
	tmp := dir("tmp")
	tmp.Mode, tmp.ModTime = 0o1777, when
	tmp.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
	symlink := link(tar.TypeSymlink, "s", "nowhere")
	symlink.Uid, symlink.ModTime = 56, when
	root := dir("./")
	root.Mode = 0o711

	target, err := unpackTo(t, archive(t, tmp, suid, symlink, file("tmp/later", ""), root))
	require.NoError(t, err)

	var st unix.Stat_t
	require.NoError(t, unix.Lstat(target+"/bin/su", &st))
	require.EqualValues(t, 0o6755, st.Mode&0o7777)
	require.Equal(t, []uint32{12, 34}, []uint32{st.Uid, st.Gid})
	require.Equal(t, unix.Timespec{Sec: 1_234_567_890, Nsec: 123456789}, st.Mtim)
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(target+"/bin/su", "security.capability", value)
	require.NoError(t, err)
	require.Equal(t, capability, string(value[:n]))
	n, err = unix.Llistxattr(target+"/bin/su", value)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, name := range strings.Split(strings.TrimSuffix(string(value[:n]), "\x00"), "\x00") {
		names[name] = true
	}
	require.Equal(t, map[string]bool{"security.capability": true, "user.note": true}, maps.Clone(names))

	require.NoError(t, unix.Lstat(target+"/tmp", &st))
	require.EqualValues(t, 0o1777, st.Mode&0o7777)
	require.Equal(t, unix.Timespec{Sec: 1_234_567_890, Nsec: 123456789}, st.Mtim, "although a file was made in it later")
	require.Equal(t, "dir", listing(t, target)["tmp"])
	require.NoError(t, unix.Lstat(target+"/s", &st))
	require.EqualValues(t, 56, st.Uid)
	require.NoError(t, unix.Lstat(target+"/bin", &st))
	require.EqualValues(t, 0o755, st.Mode&0o7777, "implied, whatever the umask")
	require.NoError(t, unix.Lstat(target, &st))
	require.EqualValues(t, 0o711, st.Mode&0o7777)
}

func TestUnpackStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancelled := errors.New("the job was cancelled")
	cancel(cancelled)
	_, err := unpack(ctx, filepath.Join(t.TempDir(), "fs"), bytes.NewReader(archive(t, file("f", "x"))), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 10}, nil))
	require.ErrorIs(t, err, cancelled)
}

// FuzzUnpack checks that no tar, however broken, writes outside or leaves a device node.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, dir("d"), file("d/f", "x"), link(tar.TypeSymlink, "s", ".."), file("s/sentinel", "x")))
	f.Add(archive(f, file(".wh.x", ""), file("o/.wh..wh..opq", ""), link(tar.TypeLink, "h", "o"), dir("x")))
	f.Add(archive(f, entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/x", Devmajor: 1}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(outside, "sentinel"), []byte("safe"), 0o600))
		target := filepath.Join(outside, "fs")
		_, _ = unpack(t.Context(), target, bytes.NewReader(data), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 100}, nil))
		listing(t, target) // fails on real devices
		require.NoError(t, os.RemoveAll(target))
		require.Equal(t, map[string]string{"sentinel": "file safe"}, listing(t, outside))
	})
}
