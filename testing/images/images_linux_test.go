package images_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/testing/images"
)

// The images must be whole: every program in them runs in a chroot.
func TestImages(t *testing.T) {
	for name, c := range map[string]struct {
		make  func(context.Context) (string, error)
		shell string
		works string
		lacks []string
	}{
		"helper": {
			images.Helper, "/bin/bash",
			`set -e; git --version; git lfs version; gitlab-runner --version; gitlab-runner artifacts-uploader --help
			 git init -q /tmp/r; cd /tmp/r; git -c user.name=a -c user.email=b commit -q --allow-empty -m m; git rev-parse HEAD
			 git ls-remote http://127.0.0.1:1/x 2>&1 | grep -i "connect"; test -s /etc/ssl/certs/ca-certificates.crt
			 hostname; find /tmp -name x; stat -c %u /; echo a | grep a | sed s/a/b/; id; date; tar --version; gzip --version`,
			nil,
		},
		"git": {images.Git, "/bin/bash", `set -e; git --version; git lfs version`, []string{"usr/bin/gitlab-runner"}},
		"bash": {
			images.Bash, "/bin/bash", `set -e; [[ $(id -un) = root ]]; find / -maxdepth 1; sh -c 'echo sh'; ls -l /bin/sh`,
			[]string{"usr/bin/git", "usr/bin/gitlab-runner"},
		},
		"busybox": {images.Busybox, "/bin/sh", `set -e; id; ls /`, []string{"bin/bash", "usr/bin/git"}},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := c.make(context.Background())
			require.NoError(t, err)
			again, err := c.make(context.Background())
			require.NoError(t, err)
			require.Equal(t, path, again)

			root := unpack(t, path)
			for _, file := range c.lacks {
				require.NoFileExists(t, filepath.Join(root, file))
			}
			for device, minor := range map[string]uint32{"null": 3, "random": 8, "urandom": 9} {
				require.NoError(t, unix.Mknod(filepath.Join(root, "dev", device), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))))
			}
			cmd := exec.Command("/usr/sbin/chroot", root, c.shell, "-c", c.works)
			cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

// unpack unpacks an archive's image into a directory.
func unpack(t *testing.T, path string) string {
	image, err := tarball.ImageFromPath(path, nil)
	require.NoError(t, err)
	content := mutate.Extract(image)
	defer func() { require.NoError(t, content.Close()) }()
	root := t.TempDir()
	archive := tar.NewReader(content)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		require.NoError(t, err)
		target := filepath.Join(root, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			require.NoError(t, os.MkdirAll(target, header.FileInfo().Mode().Perm()))
		case tar.TypeSymlink:
			require.NoError(t, os.Symlink(header.Linkname, target))
		default:
			data, err := io.ReadAll(archive)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(target, data, header.FileInfo().Mode().Perm()))
		}
	}
}
