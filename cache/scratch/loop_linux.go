package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
)

const loopMajor = 7 // linux/Documentation/admin-guide/devices.txt

// attachAttempts bounds the race for a free loop device with other users of the host.
const attachAttempts = 50

// AttachLoop attaches a file to a loop device, which detaches itself when its last user closes it: the
// returned file, until something is mounted.
func AttachLoop(path string) (*os.File, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fault.Systemf("attaching a loop device: %w", err)
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fault.WithRemedy(fault.Adminf("attaching a loop device: %w", err),
			"load the kernel module loop, or set the scratch's kind to tmpfs")
	}
	defer control.Close()
	for attempt := range attachAttempts {
		device, err := tryAttach(control, backing)
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENOENT) {
			return nil, fault.Systemf("attaching a loop device to %s: %w", path, err)
		}
		time.Sleep(time.Duration(attempt) * time.Millisecond / 2)
	}
	return nil, fault.Systemf("attaching a loop device to %s: others took each free one %d times", path, attachAttempts)
}

func tryAttach(control, backing *os.File) (*os.File, error) {
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("asking for a free one: %w", err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("configuring %s: %w", device.Name(), err), device.Close())
	}
	return device, nil
}

// detachLoops detaches every loop device over a file; one still in use goes with its last user.
func detachLoops(path string) error {
	blocks, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		return fmt.Errorf("listing loop devices: %w", err)
	}
	for _, block := range blocks {
		if backingFile(block) != path {
			continue
		}
		device, err := os.OpenFile("/dev/"+filepath.Base(block), os.O_RDWR, 0)
		if err != nil {
			return fault.Systemf("detaching %s from %s: %w", filepath.Base(block), path, err)
		}
		_, err = unix.IoctlRetInt(int(device.Fd()), unix.LOOP_CLR_FD)
		if err = errors.Join(err, device.Close()); err != nil && !errors.Is(err, unix.ENXIO) {
			return fault.Systemf("detaching %s from %s: %w", filepath.Base(block), path, err)
		}
	}
	return nil
}

// backingFile is what a loop device, by its directory in sysfs, is attached to; empty when it is not.
func backingFile(sysfs string) string {
	path, err := os.ReadFile(filepath.Join(sysfs, "loop/backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(path), "\n"), " (deleted)")
}
