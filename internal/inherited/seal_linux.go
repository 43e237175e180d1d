package inherited

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// first is the first descriptor after the standard streams.
const first = 3

// Seal marks all descriptors but the standard streams to be closed on exec. What was meant for this process stays open in
// it (a service manager's sockets), and what is to be passed on is passed explicitly (os/exec's ExtraFiles).
func Seal() error {
	err := unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) { // before Linux 5.11, or a filter that is as old
		err = sealOneByOne()
	}
	if err != nil {
		return fmt.Errorf("marking inherited descriptors close-on-exec: %w", err)
	}
	return nil
}

func sealOneByOne() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd) // it fails for one that was closed meanwhile: the directory's own
		}
	}
	return nil
}
