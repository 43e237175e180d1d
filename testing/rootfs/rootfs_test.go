package rootfs_test

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/testing/rootfs"
)

func TestBusyboxRunsInAChroot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	require.NoError(t, rootfs.Busybox(dir))

	out, err := exec.Command("/usr/sbin/chroot", dir, "/bin/sh", "-c", "id -un; su builder -c 'id -u; id -G'; env true && echo ok").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "root\n1000\n1000 2000\nok\n", string(out))

	info, err := os.Stat(filepath.Join(dir, "tmp"))
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|os.ModeSticky|0o777, info.Mode())
}

func TestImageHasTheRootAndIsReproducible(t *testing.T) {
	first, err := rootfs.Image()
	require.NoError(t, err)
	second, err := rootfs.Image()
	require.NoError(t, err)
	digest, err := first.Digest()
	require.NoError(t, err)
	again, err := second.Digest()
	require.NoError(t, err)
	require.Equal(t, digest, again)

	config, err := first.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "linux", config.OS)
	require.Equal(t, []string{"PATH=" + rootfs.Path}, config.Config.Env)

	layers, err := first.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	content, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer func() { require.NoError(t, content.Close()) }()
	found := map[string]byte{}
	archive := tar.NewReader(content)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		found[header.Name] = header.Typeflag
	}
	require.EqualValues(t, tar.TypeReg, found["bin/busybox"])
	require.EqualValues(t, tar.TypeSymlink, found["bin/sh"])
	require.EqualValues(t, tar.TypeDir, found["tmp/"])
}
