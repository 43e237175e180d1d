package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/airlock-ci/airlock/cache/disk"
	"github.com/airlock-ci/airlock/cache/scratch"
	"github.com/airlock-ci/airlock/cache/space"
)

// modelNode is a file of the model. Its time is known unless the directory is one that no layer lists.
type modelNode struct {
	kind     byte // of tar
	mode     int64
	uid, gid int
	seconds  int64
	content  string // or where a link leads
}

func (n *modelNode) String() string {
	if n.kind == tar.TypeSymlink {
		return fmt.Sprintf("link %d:%d -> %s", n.uid, n.gid, n.content)
	}
	return fmt.Sprintf("%c %o %d:%d %d %s", n.kind, n.mode, n.uid, n.gid, n.seconds, n.content)
}

// model is what an image is by the image format: a root file system to which layer after layer is applied, entry by entry.
// It is written to be read, and shares nothing with the code that it judges.
type model struct {
	nodes map[string]*modelNode // by path; "." is the root
	mine  map[string]bool       // what the layer that is applied made or listed
	// followed are the symbolic links of lower layers that its paths led through, and what these led to. What a layer
	// means that replaces them as well depends on the order of its entries.
	followed map[string]bool
	// aliased are the symbolic links that the layer made by such a path, and unsure is true once it went through one: that
	// one is in the way of what the layer has by the other path is only known when it meets the layers below.
	aliased map[string]bool
	unsure  bool
}

func newModel() *model {
	return &model{nodes: map[string]*modelNode{".": {kind: tar.TypeDir, mode: 0o755}}}
}

// real is the path without symbolic links, of what need not exist; false in a loop or below a file.
func (m *model) real(name string) (string, bool) {
	at, left, linked := ".", name, false
	for range 100 {
		if left == "" {
			return at, true
		}
		var base string
		base, left, _ = strings.Cut(left, "/")
		next := path.Clean("/" + path.Join(at, base))[1:]
		if next == "" {
			next = "."
		}
		if linked {
			m.followed[next] = true
		}
		switch n := m.nodes[next]; {
		case n == nil || n.kind == tar.TypeDir:
			at = next
		case n.kind == tar.TypeSymlink:
			if !m.mine[next] {
				m.followed[next], linked = true, true
			}
			m.unsure = m.unsure || m.aliased[next]
			if path.IsAbs(n.content) {
				at = "."
			}
			left = n.content + "/" + left
		default:
			return "", false
		}
	}
	return "", false
}

func (m *model) wentThrough(name string) bool {
	for link := range m.followed {
		if name == "." || link == name || strings.HasPrefix(link, name+"/") {
			return true
		}
	}
	return false
}

func (m *model) remove(name string) {
	for other := range m.nodes {
		if other == name || strings.HasPrefix(other, name+"/") {
			delete(m.nodes, other)
			delete(m.mine, other)
		}
	}
}

// hide removes what lower layers have below a directory.
func (m *model) hide(dir string) {
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		below := name != "." && (dir == "." || strings.HasPrefix(name, dir+"/"))
		if below && !m.mine[name] {
			delete(m.nodes, name)
		}
	}
}

// apply applies one entry; false when the model has no opinion on such an image, and nothing was changed.
func (m *model) apply(e entry) bool {
	name := path.Clean(e.Name)
	if name == "." {
		m.put(".", e)
		return true
	}
	dir, ok := m.real(path.Dir(name))
	base := path.Base(name)
	if m.unsure {
		return false
	}
	if marker, is := strings.CutPrefix(base, whiteoutPrefix); is {
		if !ok {
			return true // it hides nothing
		}
		if base == opaqueMarker {
			if m.wentThrough(dir) {
				return false
			}
			m.hide(dir)
			return true
		}
		gone := path.Join(dir, marker)
		if m.mine[gone] || m.wentThrough(gone) {
			return false
		}
		m.remove(gone)
		return true
	}
	if !ok {
		return false
	}
	for at := dir; ; at = path.Dir(at) {
		if m.nodes[at] == nil {
			m.nodes[at] = &modelNode{kind: tar.TypeDir, mode: 0o755, seconds: -1}
		}
		m.mine[at] = true
		if at == "." {
			break
		}
	}
	name = path.Join(dir, base)
	if old := m.nodes[name]; m.mine[name] || m.wentThrough(name) && (e.Typeflag != tar.TypeDir || old != nil && old.kind != tar.TypeDir) {
		return false
	}
	m.aliased[name] = name != path.Clean(e.Name)
	m.put(name, e)
	return true
}

func (m *model) put(name string, e entry) {
	if old := m.nodes[name]; old != nil && (old.kind != tar.TypeDir || e.Typeflag != tar.TypeDir) {
		m.remove(name)
	}
	content := e.content
	if e.Typeflag == tar.TypeSymlink {
		content = e.Linkname
	}
	m.nodes[name] = &modelNode{e.Typeflag, e.Mode, e.Uid, e.Gid, e.ModTime.Unix(), content}
	m.mine[name] = true
}

func (m *model) describe() map[string]string {
	all := map[string]string{}
	for name, n := range m.nodes {
		all[name] = n.String()
	}
	return all
}

// drawLayer draws the entries of a layer that are not refused, as tars have them: whiteouts first, and a directory before
// what is in it.
func drawLayer(t *rapid.T, m *model) (entries []entry) {
	part := rapid.SampledFrom([]string{"a", "b", "c"})
	names := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(part, 1, 4), func(parts []string) string { return strings.Join(parts, "/") }), 0, 10)
	m.mine, m.followed, m.aliased = map[string]bool{}, map[string]bool{}, map[string]bool{}
	add := func(e entry) {
		before := &model{maps.Clone(m.nodes), maps.Clone(m.mine), maps.Clone(m.followed), maps.Clone(m.aliased), false}
		if m.apply(e) {
			entries = append(entries, e)
		} else {
			*m = *before
		}
	}
	gone := names.Draw(t, "whiteouts")
	slices.Sort(gone)
	for _, name := range slices.Compact(gone) {
		base := whiteoutPrefix + path.Base(name)
		if rapid.IntRange(0, 3).Draw(t, "opaque") == 0 {
			base = opaqueMarker
		}
		add(file(path.Join(path.Dir(name), base), ""))
	}
	made := names.Draw(t, "names")
	if rapid.Bool().Draw(t, "root") {
		made = append(made, ".")
	}
	slices.Sort(made)
	for _, name := range slices.Compact(made) {
		e := file(name, rapid.SampledFrom([]string{"", "1", "22"}).Draw(t, "content"))
		switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case name == "." || kind < 3:
			e = dir(name)
		case kind == 3:
			e = link(tar.TypeSymlink, name, rapid.SampledFrom([]string{"a", "b", "/c", "..", "/a/b", "../b", ".", "b/c", "../../../a"}).Draw(t, "target"))
		}
		e.Mode = int64(rapid.SampledFrom([]int{0o700, 0o1777, 0o2755, 0o555}).Draw(t, "mode"))
		e.Uid, e.Gid = rapid.IntRange(0, 3).Draw(t, "uid"), rapid.IntRange(0, 3).Draw(t, "gid")
		e.ModTime = time.Unix(int64(rapid.IntRange(1, 1000).Draw(t, "time")), 0)
		add(e)
	}
	return entries
}

// Whatever the layers, a container and a guest see the tree that the image format means, and what a directory lists is
// there.
func TestEveryImageIsWhatItsLayersMean(t *testing.T) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := newModel()
		var layers, text []string
		root := filepath.Join(t.TempDir(), fmt.Sprint(n))
		for i := range rapid.IntRange(1, 4).Draw(rt, "layers") {
			entries := drawLayer(rt, m)
			layer := filepath.Join(root, fmt.Sprint(i))
			text = append(text, fmt.Sprintf("layer %d:", i))
			for _, e := range entries {
				text = append(text, fmt.Sprintf("  %c %s %s", e.Typeflag, e.Name, e.Linkname))
			}
			require.NoError(rt, os.MkdirAll(root, 0o755))
			found, err := unpack(context.Background(), layer, strings.NewReader(string(archive(t, entries...))), space.NewBudget(space.Use{Bytes: 1 << 20, Inodes: 1000}, nil))
			require.NoError(rt, err)
			require.NoError(rt, settle(context.Background(), layer, layers, found.dependent))
			layers = slices.Insert(layers, 0, layer)
		}
		overlay := seen(rt, layers, filepath.Join(root, "overlay"), mountOverlayAt)
		disk := seen(rt, layers, filepath.Join(root, "disk"), mountDiskAt)
		want := m.describe()
		for name, node := range m.nodes {
			if node.seconds < 0 || name == "." && node.seconds == 0 { // made without anybody saying when
				want[name] = regardless(want[name])
				overlay[name] = regardless(overlay[name])
				disk[name] = regardless(disk[name])
			}
		}
		require.Equal(rt, want, overlay, "a container's, of\n%s", strings.Join(text, "\n"))
		require.Equal(rt, want, disk, "a guest's, of\n%s", strings.Join(text, "\n"))
	})
}

func regardless(node string) string {
	fields := strings.Fields(node)
	if len(fields) < 4 {
		return node
	}
	return strings.Join(fields[:3], " ")
}

// seen describes a mounted tree as the model describes itself.
func seen(t *rapid.T, layers []string, at string, mount func(*rapid.T, []string, string)) map[string]string {
	require.NoError(t, os.MkdirAll(at, 0o755))
	mount(t, layers, at)
	defer func() { require.NoError(t, unix.Unmount(at, 0)) }()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(at, func(file string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			return err
		}
		node := &modelNode{kind: tar.TypeDir, mode: int64(st.Mode & 0o7777), uid: int(st.Uid), gid: int(st.Gid), seconds: st.Mtim.Sec}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			node.kind = tar.TypeSymlink
			if node.content, err = os.Readlink(file); err != nil {
				return err
			}
		case unix.S_IFREG:
			node.kind = tar.TypeReg
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			node.content = string(content)
		}
		name, err := filepath.Rel(at, file)
		if name != "lost+found" {
			found[name] = node.String()
		}
		return err
	}))
	return found
}

func mountOverlayAt(t *rapid.T, layers []string, at string) {
	empty := at + "-empty"
	require.NoError(t, os.MkdirAll(empty, 0o755))
	options := fmt.Sprintf("index=off,lowerdir=%s", strings.Join(append(slices.Clone(layers), empty), ":"))
	require.NoError(t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, options))
}

func mountDiskAt(t *rapid.T, layers []string, at string) {
	file, err := os.Create(at + ".ext4")
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, disk.Write(context.Background(), file, layers, anyRoom))
	_, err = disk.Finish(file)
	require.NoError(t, err)
	device, err := scratch.AttachLoop(file.Name())
	require.NoError(t, err)
	defer device.Close()
	require.NoError(t, unix.Mount(device.Name(), at, "ext4", unix.MS_RDONLY, ""))
}
