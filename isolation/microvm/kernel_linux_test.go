package microvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/internal/fault"
)

func TestNewestKernel(t *testing.T) {
	dir := t.TempDir()
	add := func(version string, modules bool) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "boot"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "boot", "vmlinuz-"+version), nil, 0o644))
		if modules {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "lib/modules", version), 0o755))
		}
	}
	_, err := findKernel("auto", dir)
	require.ErrorContains(t, err, "linux-image-cloud-amd64")
	require.Equal(t, fault.Admin, fault.ClassOf(err))
	for _, step := range []struct {
		add     string
		modules bool
		want    string
	}{
		{"6.1.0-9-amd64", true, "6.1.0-9-amd64"},
		{"6.1.0-56-amd64", true, "6.1.0-56-amd64"},
		{"6.12.0-1-amd64", false, "6.1.0-56-amd64"},
		{"5.10.0-40-cloud-amd64", true, "5.10.0-40-cloud-amd64"},
		{"6.1.0-9-cloud-amd64", true, "6.1.0-9-cloud-amd64"},
		{"6.1.0-10-cloud-amd64", true, "6.1.0-10-cloud-amd64"},
	} {
		add(step.add, step.modules)
		found, err := findKernel("auto", dir)
		require.NoError(t, err)
		require.Equal(t, step.want, found.version)
	}
}

func TestBrokenKernels(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"empty": "", "text": strings.Repeat("no kernel\n", 1000), "ELF without more": "\x7fELF",
		"header alone": strings.Repeat("\x00", 0x202) + "HdrS" + strings.Repeat("\xff", 0x100),
	} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		_, err := hostKernel{image: path}.uncompressed()
		require.Error(t, err, name)
		require.Equal(t, fault.Admin, fault.ClassOf(err), name)
	}
}

// TestInitramfs reads the archive with cpio's own reader, and the modules' order from what they need.
func TestInitramfs(t *testing.T) {
	kernel, err := findKernel("auto", shared.kernel)
	require.NoError(t, err)
	modules, err := loadOrder(kernel.modules, neededModules)
	require.NoError(t, err)
	position := map[string]int{}
	for i, m := range modules {
		position[m.name] = i
	}
	for _, pair := range [][2]string{{"virtio", "virtio_ring"}, {"virtio_ring", "virtio_mmio"}, {"virtio_ring", "virtio_blk"}, {"net_failover", "virtio_net"}} {
		before, ok1 := position[pair[0]]
		after, ok2 := position[pair[1]]
		if ok1 && ok2 {
			require.True(t, before < after || pair[0] == "virtio", "%v", pair)
		}
	}
	require.Contains(t, position, "overlay")
	_, err = loadOrder(kernel.modules, []string{"no_such_module"})
	require.ErrorContains(t, err, "no_such_module")

	list := exec.Command("/bin/busybox", "cpio", "-t")
	list.Stdin = strings.NewReader(string(initramfs([]byte("program"), []byte("filter"), modules)))
	names, err := list.Output()
	require.NoError(t, err)
	require.Contains(t, string(names), "init\n")
	require.Contains(t, string(names), "filter\n")
	require.Equal(t, len(modules), strings.Count(string(names), ".ko\n"))
}

// TestModuleThatIsCutShort: a crash of the host may leave any beginning of a file.
func TestModuleThatIsCutShort(t *testing.T) {
	for _, data := range []string{"", "x", "abc"} {
		_, err := decompressor([]byte(data))
		require.ErrorContains(t, err, "compressed in an unknown way")
	}
}
