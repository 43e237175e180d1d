package microvm

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// memoryName is the name of the memory files of guests, which proc shows.
const memoryName = "airlock-guest"

// newMemory returns a file of anonymous memory.
func newMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(memoryName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd), memoryName)
	if err := file.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("making a memory file: %w", err), file.Close())
	}
	return file, nil
}

// seal makes a memory file immutable for everyone and ever. QEMU opens it for writing even to map it copy-on-write, so
// nothing less would keep a QEMU that a guest has taken over from changing the template of all others.
func seal(file *os.File) error {
	_, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	if err != nil {
		return fmt.Errorf("sealing a memory file: %w", err)
	}
	return nil
}

// reopen returns a descriptor of the file with an offset of its own, for reading.
func reopen(file *os.File) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
}

// copySparse copies the parts of a file that hold data, and its size.
func copySparse(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); ; {
		data, err := unix.Seek(int(from.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := to.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(to, io.NewSectionReader(from, data, hole-data)); err != nil {
			return err
		}
		offset = hole
	}
}
