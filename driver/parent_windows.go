package driver

import (
	"errors"

	"golang.org/x/sys/windows"
)

// parentGone reports whether the process that called this one has ended. Windows keeps a parent's id for ever, and may give
// it to another process: one that is younger than we are is not our parent.
func parentGone(parent int) bool {
	handle, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION|windows.SYNCHRONIZE, false, uint32(parent))
	if errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
		return true
	}
	if err != nil {
		return false // it is there, and closed to us
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	if event, err := windows.WaitForSingleObject(handle, 0); err == nil && event == windows.WAIT_OBJECT_0 {
		return true
	}
	theirs, err := created(handle)
	if err != nil {
		return false
	}
	ours, err := created(windows.CurrentProcess())
	return err == nil && theirs > ours
}

func created(process windows.Handle) (int64, error) {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(process, &created, &exited, &kernel, &user); err != nil {
		return 0, err
	}
	return created.Nanoseconds(), nil
}
