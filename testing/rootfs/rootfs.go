// Package rootfs makes the small Linux root that tests run jobs in: busybox with its applets as links, and the
// passwd and group files that users are resolved against. It comes as a directory, which is one unpacked
// layer, and as an image for registries and archives.
//
// It needs the static /bin/busybox of Debian's busybox-static. Only tests import it.
package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const busybox = "/bin/busybox"

// Path is the PATH of the image's configuration.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Users of the root, beside root itself: their names are their groups' names too.
const (
	Builder   = "builder"
	BuilderID = 1000
)

// RunDir is a directory of /run that belongs to Builder, as images of services have them.
const RunDir = "run/service"

// The directories that every distribution has, and their modes. Of Airlock's own mount points none is here: a
// runtime must do without them.
var directories = []struct {
	name string
	mode fs.FileMode
}{
	{"bin", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home/" + Builder, 0o755}, {"proc", 0o755},
	{"root", 0o700}, {"run", 0o755}, {"run/lock", fs.ModeSticky | 0o777}, {RunDir, 0o750}, {"sbin", 0o755}, {"sys", 0o755}, {"tmp", fs.ModeSticky | 0o777},
	{"usr/bin", 0o755}, {"usr/sbin", 0o755}, {"var", 0o755},
}

// OSRelease is what stands in /etc/os-release.
const OSRelease = "ID=busybox\nPRETTY_NAME=\"Airlock's test root\"\n"

// The files of /etc.
var files = map[string]string{
	"etc/passwd": fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\n%s:x:%d:%d::/home/%[1]s:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		Builder, BuilderID, BuilderID),
	"etc/group":      fmt.Sprintf("root:x:0:\n%s:x:%d:\nextra:x:2000:%[1]s\nnogroup:x:65534:\n", Builder, BuilderID),
	"etc/os-release": OSRelease,
}

// Busybox makes the root in dir, which is created when missing and must be empty otherwise.
func Busybox(dir string) error {
	for _, d := range directories {
		path := filepath.Join(dir, d.name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("making the test root: %w", err)
		}
		if err := os.Chmod(path, d.mode); err != nil {
			return fmt.Errorf("making the test root: %w", err)
		}
	}
	for _, name := range []string{"home/" + Builder, RunDir} {
		if err := os.Chown(filepath.Join(dir, name), BuilderID, BuilderID); err != nil {
			return fmt.Errorf("making the test root: %w", err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(dir, "var/run")); err != nil {
		return fmt.Errorf("making the test root: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("making the test root: %w", err)
		}
	}
	return installBusybox(dir)
}

// installBusybox copies the host's busybox and links its applets to it.
func installBusybox(dir string) error {
	program, err := os.ReadFile(busybox)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the test root needs %s: install the package busybox-static", busybox)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		return err
	}
	applets, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return fmt.Errorf("asking %s for its applets: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		err := os.Symlink(busybox, filepath.Join(dir, applet))
		if err != nil && !errors.Is(err, fs.ErrExist) { // busybox names itself an applet
			return fmt.Errorf("linking the applet: %w", err)
		}
	}
	return nil
}

// Image returns the root as an image of one layer for linux and this machine's architecture. Two calls return
// images of the same digest.
func Image() (v1.Image, error) {
	dir, err := os.MkdirTemp("", "airlock-rootfs-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := Busybox(dir); err != nil {
		return nil, err
	}
	return ImageOf(dir, v1.Config{Env: []string{"PATH=" + Path}, Cmd: []string{"sh"}})
}

// ImageOf returns an image with the given configuration whose only layer is the tree below dir: directories,
// regular files and symbolic links, with their owners and modes. The tree is read at once, so dir may go.
func ImageOf(dir string, config v1.Config) (v1.Image, error) {
	var archive bytes.Buffer
	if err := WriteTar(&archive, dir); err != nil {
		return nil, fmt.Errorf("packing %s: %w", dir, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, file)
}

// WriteTar writes the tree below dir, with all times zero so that equal trees make equal archives.
func WriteTar(w io.Writer, dir string) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return writeEntry(archive, dir, path, entry)
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func writeEntry(archive *tar.Writer, dir, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var target string
	if entry.Type()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if header.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	if entry.IsDir() {
		header.Name += "/"
	}
	header.ModTime, header.AccessTime, header.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
	header.Uname, header.Gname = "", ""
	if err := archive.WriteHeader(header); err != nil || !entry.Type().IsRegular() {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}
