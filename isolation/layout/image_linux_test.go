package layout

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Wherever an image's /etc leads, a process of the sandbox finds the names files there, and nothing outside is touched.
func TestNamesFilesAreWhereEtcLeads(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "hosts"), []byte("outside"), 0o600))
	for name, test := range map[string]struct {
		image func(root string) error
		at    string // where the files are in the end
	}{
		"nothing":     {func(string) error { return nil }, "etc"},
		"a directory": {func(root string) error { return os.Mkdir(root+"/etc", 0o700) }, "etc"},
		"a file":      {func(root string) error { return os.WriteFile(root+"/etc", nil, 0o600) }, "etc"},
		"an absolute link": {func(root string) error {
			return first(os.MkdirAll(root+"/usr/etc", 0o755), os.Symlink("/usr/etc", root+"/etc"))
		}, "usr/etc"},
		"a relative link": {func(root string) error {
			return first(os.MkdirAll(root+"/usr/etc", 0o755), os.Symlink("usr/etc", root+"/etc"))
		}, "usr/etc"},
		"a link that goes up": {func(root string) error {
			return first(os.Mkdir(root+"/private", 0o755), os.Symlink("../../../../private", root+"/etc"))
		}, "private"},
		"links of links": {func(root string) error {
			return first(os.MkdirAll(root+"/a/b", 0o755), os.Symlink("/a", root+"/c"), os.Symlink("/c/b", root+"/d"), os.Symlink("/d", root+"/etc"))
		}, "a/b"},
		"a link to nothing":       {func(root string) error { return os.Symlink("/none", root+"/etc") }, "etc"},
		"a link outside":          {func(root string) error { return os.Symlink(outside, root+"/etc") }, "etc"},
		"a link outside, by dots": {func(root string) error { return os.Symlink("../../../../../../../../"+outside, root+"/etc") }, "etc"},
		"a link to itself":        {func(root string) error { return os.Symlink("/etc", root+"/etc") }, "etc"},
		"a link to a file": {func(root string) error {
			return first(os.WriteFile(root+"/f", nil, 0o600), os.Symlink("/f", root+"/etc"))
		}, "etc"},
		"a link to a process": {func(root string) error { return os.Symlink("/proc/self/root", root+"/etc") }, "etc"},
		"files that lead outside": {func(root string) error {
			return first(os.Mkdir(root+"/etc", 0o755), os.Symlink(outside+"/hosts", root+"/etc/hosts"), unix.Mkfifo(root+"/etc/hostname", 0o600),
				os.MkdirAll(root+"/etc/resolv.conf/d", 0o755))
		}, "etc"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, test.image(root))
			files := map[string]string{"etc/hosts": "ours", "etc/hostname": "box\n", "etc/resolv.conf": ""}
			require.NoError(t, PrepareImage(root, files))
			require.NoError(t, ReplaceFile(root, "etc/machine-id", "id\n", 0o444))
			files["etc/machine-id"] = "id\n"
			for name, want := range files {
				path := filepath.Join(root, test.at, filepath.Base(name))
				info, err := os.Lstat(path)
				require.NoError(t, err)
				require.True(t, info.Mode().IsRegular(), name)
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, want, string(content))
			}
			entries, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Len(t, entries, 1)
			content, err := os.ReadFile(filepath.Join(outside, "hosts"))
			require.NoError(t, err)
			require.Equal(t, "outside", string(content))
		})
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
