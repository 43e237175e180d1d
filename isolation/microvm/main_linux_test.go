package microvm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/airlock-ci/airlock/testing/conformance"
	"github.com/airlock-ci/airlock/testing/guestkernel"
	"github.com/airlock-ci/airlock/testing/rootfs"
	"github.com/airlock-ci/airlock/testing/runtimetest"
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

func TestMain(m *testing.M) { os.Exit(runtimetest.Main(m, testParent, prepareShared)) }

func prepareShared(dir string) error {
	shared.agent, shared.image, shared.helper = filepath.Join(dir, "agent"), filepath.Join(dir, "image.ext4"), filepath.Join(dir, "helper.ext4")
	shared.scratch, shared.state = filepath.Join(dir, "scratch.ext4"), filepath.Join(dir, "state")
	var err error
	if shared.kernel, err = guestkernel.Dir(); err != nil {
		return err
	}
	if err := runtimetest.Build(shared.agent, "github.com/airlock-ci/airlock/cmd/airlock-agent"); err != nil {
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
	go func() { _ = writer.CloseWithError(rootfs.WriteTar(writer, root)) }()
	file, err := os.Create(disk)
	if err != nil {
		return err
	}
	return errors.Join(tar2ext4.ConvertTarToExt4(reader, file), file.Close())
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
