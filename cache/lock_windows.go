package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/internal/fault"
)

// lockedByte is far beyond the file's content: Windows refuses reads of a locked range.
const lockedByte = 1 << 30

// lockDir takes the directory for this process. Windows gives it free when the process ends, however.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err = windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{Offset: lockedByte})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		holder, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fault.WithRemedy(
			fault.Adminf("the cache %s is in use by another executor, process %s", dir, strings.TrimSpace(string(holder))),
			"stop it, or give this one a state_dir of its own")
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}

// syncFileSystem makes what was written last: it flushes the volume, which needs an administrator.
func syncFileSystem(dir string) error {
	volume, err := windows.UTF16PtrFromString(`\\.\` + filepath.VolumeName(dir))
	if err != nil {
		return fmt.Errorf("flushing the volume of %s: %w", dir, err)
	}
	handle, err := windows.CreateFile(volume, windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil,
		windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return fmt.Errorf("flushing the volume of %s: %w", dir, err)
	}
	err = windows.FlushFileBuffers(handle)
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		err = nil // a volume that has no such thing; each mark was flushed by itself
	}
	return errors.Join(err, windows.CloseHandle(handle))
}

// writeDisk is for guests of Linux hosts.
func writeDisk(context.Context, *os.File, []string, func(Use) error) error {
	return fault.Systemf("images on Windows become no disks")
}

func allocated(info fs.FileInfo) int64 { return info.Size() }
