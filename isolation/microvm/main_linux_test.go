package microvm

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/airlock-ci/airlock/isolation/cgroup"
	"github.com/airlock-ci/airlock/isolation/mountns"
	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/guestkernel"
	"github.com/airlock-ci/airlock/testing/rootfs"
)

// What all tests share and none changes.
var shared struct {
	agent   string // the agent's binary
	image   string // the disk of the image
	helper  string // the disk of the helper root: the same, with a marker
	scratch string // an empty scratch disk, to be copied
	kernel  string // Options.KernelDir
	state   string // Options.StateDir: with kernel, initramfs and templates
}

// testParent is the cgroup above all that these tests make.
const testParent = "airlock-microvm-test"

// TestMain enters a mount namespace as the executor does: in it, nobody else's mounts come and go.
func TestMain(m *testing.M) {
	if err := mountns.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests start virtual machines, which needs root:", err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "airlock-microvm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := prepareShared(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer removeTestCgroups()
	return m.Run()
}

func removeTestCgroups() {
	groups, err := cgroup.New(testParent)
	if err != nil {
		return
	}
	for _, parent := range groups.Parents() {
		own, _ := filepath.Glob(filepath.Join(parent, fmt.Sprintf("%d-*", os.Getpid())))
		for _, dir := range append(own, parent) {
			_ = syscall.Rmdir(dir)
		}
	}
}

func prepareShared(dir string) error {
	shared.agent, shared.image, shared.helper = filepath.Join(dir, "agent"), filepath.Join(dir, "image.ext4"), filepath.Join(dir, "helper.ext4")
	shared.scratch, shared.state = filepath.Join(dir, "scratch.ext4"), filepath.Join(dir, "state")
	var err error
	if shared.kernel, err = guestkernel.Dir(); err != nil {
		return err
	}
	if err := buildStatic(shared.agent, "github.com/airlock-ci/airlock/cmd/airlock-agent"); err != nil {
		return err
	}
	for _, disk := range []string{shared.image, shared.helper} {
		root := disk + ".root"
		if err := rootfs.Busybox(root); err != nil {
			return err
		}
		if disk == shared.helper {
			if err := os.WriteFile(filepath.Join(root, conformance.HelperMarker), nil, 0o644); err != nil {
				return err
			}
		}
		if err := makeDisk(disk, root); err != nil {
			return err
		}
	}
	return makeScratch(shared.scratch, 2<<30)
}

// makeDisk makes a disk image of the tree below root, as the cache does.
func makeDisk(disk, root string) error {
	reader, writer := io.Pipe()
	go func() {
		archive := tar.NewWriter(writer)
		err := addTree(archive, root)
		_ = writer.CloseWithError(errors.Join(err, archive.Close()))
	}()
	file, err := os.Create(disk)
	if err != nil {
		return err
	}
	return errors.Join(tar2ext4.ConvertTarToExt4(reader, file), file.Close())
}

func addTree(archive *tar.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := ""
		if entry.Type()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		if header.Name, err = filepath.Rel(root, path); err != nil {
			return err
		}
		if entry.IsDir() {
			header.Name += "/"
		}
		if err := archive.WriteHeader(header); err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			_, err = archive.Write(content)
		}
		return err
	})
}

// makeScratch makes an empty scratch disk.
func makeScratch(path string, size int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(size), file.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	return nil
}

// buildStatic builds a command of this module as it is shipped.
func buildStatic(output, pkg string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", output, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}
