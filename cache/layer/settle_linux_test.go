package layer

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/cache/space"
)

// owned gives an entry a mode, owners and a time of its own.
func owned(e entry, mode int64, uid, gid int) entry {
	e.Mode, e.Uid, e.Gid, e.ModTime = mode, uid, gid, time.Unix(1_111_111_111, 0)
	return e
}

// brief is a tree as "mode uid:gid seconds" with what a link leads to, or a file holds.
func brief(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name := range inventory(t, root) {
		var st unix.Stat_t
		path := filepath.Join(root, name)
		require.NoError(t, unix.Lstat(path, &st))
		text := fmt.Sprintf("%o %d:%d %d", st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			text = "-> " + target
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			text = "file " + string(content)
		}
		found[name] = text
	}
	return found
}

// What images of several layers are, whichever directories their layers list.
func TestLayersAreFittedToThoseBelow(t *testing.T) {
	const given, fresh = "1111111111", "1500000000" // of owned, and of archive
	tmp := owned(dir("tmp"), 0o1777, 0, 0)
	home := owned(dir("home/app"), 0o750, 1000, 1001)
	labelled := owned(dir("labelled"), 0o700, 1, 2)
	labelled.PAXRecords = map[string]string{"SCHILY.xattr.user.label": "kept"}
	for name, test := range map[string]struct {
		layers [][]entry         // lowest first
		want   map[string]string // of some names; "" means that there is nothing
	}{
		"directories that are not listed": {
			[][]entry{{owned(dir("./"), 0o751, 3, 4), tmp, home, labelled}, {file("tmp/x", ""), file("home/app/.config/y", "")}, {file("labelled/a/b/c", "")},
				{file("tmp/z", "")}},
			map[string]string{".": "751 3:4 " + given, "tmp": "1777 0:0 " + given, "home/app": "750 1000:1001 " + given, "labelled": "700 1:2 " + given},
		},
		"one that is listed between": {
			[][]entry{{tmp}, {owned(dir("tmp"), 0o700, 5, 5)}, {file("tmp/x", "")}},
			map[string]string{"tmp": "700 5:5 " + given},
		},
		"one that is listed after its content": {
			[][]entry{{tmp}, {file("tmp/x", ""), owned(dir("tmp"), 0o700, 5, 5)}},
			map[string]string{"tmp": "700 5:5 " + given},
		},
		"one that was removed": {
			[][]entry{{home}, {file("home/.wh.app", "")}, {file("home/app/x", "")}},
			map[string]string{"home/app/x": "file "},
		},
		"one that is removed and made again": {
			[][]entry{{tmp, file("tmp/low", "")}, {file(".wh.tmp", ""), file("tmp/x", "")}},
			map[string]string{"tmp/x": "file ", "tmp/low": ""},
		},
		"one whose content is hidden": {
			[][]entry{{tmp, file("tmp/low", "")}, {file("tmp/.wh..wh..opq", ""), file("tmp/x", "")}},
			map[string]string{"tmp": "1777 0:0 " + given, "tmp/x": "file ", "tmp/low": ""},
		},
		"one that was a file": {
			[][]entry{{file("d", "was a file")}, {file("d/x", "")}, {file("d", "again")}, {owned(dir("d"), 0o700, 9, 9)}, {file("d/y", "")}},
			map[string]string{"d": "700 9:9 " + given, "d/x": "", "d/y": "file "},
		},
		"whiteouts of nothing": {
			[][]entry{{dir("a"), file("a/.wh.x", ""), file(".wh.y", ""), file("never/there/.wh.z", "")},
				{dir("b"), file("b/.wh.x", ""), file("c/.wh.x", ""), file("c/d/.wh..wh..opq", ""), file("f", "")}, {file("f/.wh.x", "")}},
			map[string]string{"a": "755 0:0 " + fresh, "a/x": "", "y": "", "never": "", "b": "755 0:0 " + fresh, "b/x": "", "c": "", "f": "file "},
		},
		"a whiteout in a directory that hides": {
			[][]entry{{file("o/x", ""), file("o/y", "")}, {dir("o"), file("o/.wh..wh..opq", ""), file("o/.wh.x", "")}},
			map[string]string{"o": "755 0:0 " + fresh, "o/x": "", "o/y": ""},
		},
		"a whiteout twice": {
			[][]entry{{dir("d"), file("d/x", "")}, {file("d/.wh.x", "")}, {file("d/.wh.x", "")}, {file("d/x", "3")}, {file("d/.wh.x", "")}},
			map[string]string{"d": "755 0:0 " + fresh, "d/x": ""},
		},
		"all is hidden": {
			[][]entry{{owned(dir("./"), 0o711, 0, 0), file("low", ""), dir("d"), owned(dir("e"), 0o700, 7, 7), file("e/low", ""), file("g", ""), link(tar.TypeSymlink, "l", "d")},
				{file(".wh..wh..opq", ""), file("high", ""), file("e/high", ""), file("l/x", "")}},
			map[string]string{".": "711 0:0 " + given, "low": "", "d": "", "g": "", "e/low": "", "high": "file ", "e/high": "file ", "l/x": "file "},
		},
		"a link below": {
			[][]entry{{owned(dir("run"), 0o711, 0, 5), file("run/low", ""), link(tar.TypeSymlink, "var/run", "/run"), link(tar.TypeSymlink, "lib", "usr/lib"),
				dir("usr/lib"), link(tar.TypeSymlink, "usr/up", "../../.."), link(tar.TypeSymlink, "new", "srv/www")},
				{file("var/run/x", "1"), owned(dir("var/run/d"), 0o700, 8, 8), file("lib/a/b", "2"), file("usr/up/top", "3"), file("new/f", "4")}},
			map[string]string{"run": "711 0:5 " + given, "run/low": "file ", "run/x": "file 1", "run/d": "700 8:8 " + given, "var/run": "-> /run",
				"lib": "-> usr/lib", "usr/lib/a/b": "file 2", "top": "file 3", "new": "-> srv/www", "srv/www/f": "file 4"},
		},
		"links below that lead through links": {
			[][]entry{{link(tar.TypeSymlink, "a", "b/c"), link(tar.TypeSymlink, "b", "d"), dir("d"), link(tar.TypeSymlink, "d/c", "../e"), dir("e"),
				link(tar.TypeSymlink, "e/self", ".")}, {file("a/x", "1"), file("b/c/y", "2"), file("a/self/self/z", "3")}},
			map[string]string{"a": "-> b/c", "b": "-> d", "d/c": "-> ../e", "e/x": "file 1", "e/y": "file 2", "e/z": "file 3", "e/self": "-> ."},
		},
		"a link of the layer beyond one below": {
			[][]entry{{link(tar.TypeSymlink, "b", "c"), dir("c")}, {link(tar.TypeSymlink, "a", "b"), file("a/x", "1")}},
			map[string]string{"a": "-> b", "b": "-> c", "c/x": "file 1"},
		},
		"links below that are replaced": {
			[][]entry{{dir("run"), link(tar.TypeSymlink, "l", "run"), link(tar.TypeSymlink, "loop", "loop"), link(tar.TypeSymlink, "f", "file"), file("file", "")},
				{dir("l"), file("l/x", "1"), file("loop/x", "2"), file("f/x", "3")}},
			map[string]string{"l/x": "file 1", "run/x": "", "loop/x": "file 2", "f/x": "file 3"},
		},
		"a whiteout beyond a link below": {
			[][]entry{{file("run/gone", ""), file("run/kept", ""), link(tar.TypeSymlink, "var/run", "/run")}, {file("var/run/.wh.gone", ""), file("var/run/.wh.none", "")}},
			map[string]string{"run/gone": "", "run/kept": "file ", "var/run": "-> /run"},
		},
		"both ways to one directory": {
			[][]entry{{dir("usr/lib"), link(tar.TypeSymlink, "lib", "usr/lib")},
				{owned(dir("usr/lib"), 0o700, 1, 1), file("usr/lib/d/1", ""), file("lib/d/2", ""), owned(dir("lib/d"), 0o711, 2, 2), file("lib/3", "")}},
			map[string]string{"usr/lib": "700 1:1 " + given, "usr/lib/d": "711 2:2 " + given, "usr/lib/d/1": "file ", "usr/lib/d/2": "file ", "usr/lib/3": "file "},
		},
		"a link below to its own directory": {
			[][]entry{{link(tar.TypeSymlink, "here", ".")}, {file("here/here/x", "1")}},
			map[string]string{"here": "-> .", "x": "file 1"},
		},
		"a link below that was removed": {
			[][]entry{{dir("run"), link(tar.TypeSymlink, "l", "run")}, {file(".wh.l", "")}, {file("l/x", "1")}},
			map[string]string{"l/x": "file 1", "run/x": ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			layers := unpackAll(t, test.layers)
			requireDiskEqualsOverlay(t, layers)
			shown := brief(t, mountOverlay(t, layers))
			for name, want := range test.want {
				require.Equal(t, want, shown[name], "%s", name)
			}
			for _, layer := range layers {
				for name, text := range inventory(t, layer) {
					require.NotContains(t, text, "trusted.airlock", "the mark on %s is for the time of unpacking", name)
				}
			}
		})
	}
}

// The same layer over different bases shows what each of them says.
func TestOneLayerOverTwoBases(t *testing.T) {
	upper := []entry{file("tmp/x", "1"), file("var/run/y", "2")}
	open := brief(t, mountOverlay(t, unpackAll(t, [][]entry{{owned(dir("tmp"), 0o1777, 0, 0), link(tar.TypeSymlink, "var/run", "/run")}, upper})))
	closed := brief(t, mountOverlay(t, unpackAll(t, [][]entry{{owned(dir("tmp"), 0o700, 6, 6), owned(dir("var/run"), 0o711, 7, 7)}, upper})))
	require.Equal(t, "1777 0:0 1111111111", open["tmp"])
	require.Equal(t, "file 2", open["run/y"])
	require.Equal(t, "700 6:6 1111111111", closed["tmp"])
	require.Equal(t, "711 7:7 1111111111", closed["var/run"])
	require.Equal(t, "file 2", closed["var/run/y"])
}

// Programs that walk trees find what readdir lists, in a scratch as a job has it and whatever it did there.
func TestProgramsFindNoWhiteouts(t *testing.T) {
	layers := unpackAll(t, [][]entry{
		{dir("a"), file("a/.wh.none", ""), dir("d"), file("d/x", ""), file("d/y", ""), file("o/x", ""), file("e/f/g", "")},
		{dir("b"), file("b/.wh.none", ""), file("d/.wh.x", ""), dir("o"), file("o/.wh..wh..opq", ""), file("o/.wh.x", ""), file("o/y", ""), file("e/.wh.f", "")},
		{dir("c/sub"), file("c/sub/.wh.none", ""), file("e/f/.wh.g", "")},
	})
	scratch := t.TempDir()
	root := filepath.Join(scratch, "root")
	for _, sub := range []string{"root", "upper", "work"} {
		require.NoError(t, os.Mkdir(filepath.Join(scratch, sub), 0o755))
	}
	options := fmt.Sprintf("index=off,lowerdir=%s,upperdir=%s/upper,workdir=%s/work", strings.Join(layers, ":"), scratch, scratch)
	require.NoError(t, unix.Mount("overlay", root, "overlay", 0, options))
	defer func() { require.NoError(t, unix.Unmount(root, 0)) }()
	run := func(script string) {
		t.Helper()
		command := exec.Command("sh", "-e", "-c", script)
		command.Dir = root
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
		require.Empty(t, string(out))
	}
	walk := `find . -ls >/dev/null; du -a . >/dev/null; rm -rf /tmp/copy-$$; cp -a . /tmp/copy-$$; diff -r --no-dereference . /tmp/copy-$$; rm -r /tmp/copy-$$`
	run(walk)
	run("touch a/new b/new c/sub/new d/new o/new; " + walk)
	run("rm a/new b/new c/sub/new d/* o/*; " + walk + "; test -z \"$(find a b c/sub d o -mindepth 1)\"")
	run("cp -r c c2; mv c2 c3; rm -r c a; mkdir a c; touch a/none c/sub; " + walk)
	run("rm -r ./*; " + walk + "; test -z \"$(ls -A)\"; mkdir -p d/x o e/f; " + walk)
}

// Attributes that no file system can hold are left out, which is counted, and the rest of the image is as it should be.
func TestWhatIsOmittedIsCounted(t *testing.T) {
	huge := file("huge", "x")
	huge.PAXRecords = map[string]string{"SCHILY.xattr.user.huge": strings.Repeat("v", 60_000), "SCHILY.xattr.user.small": "kept"}
	device := func(name string) entry {
		return entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Devmajor: 1, Devminor: 3}}
	}
	target := filepath.Join(t.TempDir(), "fs")
	found, err := unpack(t.Context(), target, strings.NewReader(string(archive(t, huge, device("dev/null"), device("lib/null"), device("zero")))), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 100}, nil))
	require.NoError(t, err)
	require.Equal(t, []string{
		"left out of image app: device node /lib/null and 1 more",
		"left out of image app: extended attribute that file systems cannot hold /huge: user.huge",
	}, found.omitted.Warnings("app"))
	value := make([]byte, 10)
	n, err := unix.Getxattr(filepath.Join(target, "huge"), "user.small", value)
	require.NoError(t, err)
	require.Equal(t, "kept", string(value[:n]))
	// A job can still change the file: overlayfs copies its attributes to the scratch.
	scratch := t.TempDir()
	for _, sub := range []string{"root", "upper", "work"} {
		require.NoError(t, os.Mkdir(filepath.Join(scratch, sub), 0o755))
	}
	root := filepath.Join(scratch, "root")
	require.NoError(t, unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", target, scratch, scratch)))
	defer func() { require.NoError(t, unix.Unmount(root, 0)) }()
	require.NoError(t, os.WriteFile(filepath.Join(root, "huge"), []byte("changed"), 0o600))
}
