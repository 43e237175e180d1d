package identity

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockedByte is far beyond the file's content: Windows refuses reads of a locked range.
const lockedByte = 1 << 30

func tryLock(file *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(file.Fd()), flags, 0, 1, 0, &windows.Overlapped{Offset: lockedByte})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}
