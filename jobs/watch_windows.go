package jobs

import "golang.org/x/sys/windows"

// processWatch holds a process by a handle: its number may be given to another process, the handle never.
type processWatch struct{ handle windows.Handle }

// watchProcess returns nil, which counts as dead, when there is no such process.
func watchProcess(pid int) *processWatch {
	handle, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return nil
	}
	return &processWatch{handle}
}

func (w *processWatch) dead() bool {
	if w == nil {
		return true
	}
	event, err := windows.WaitForSingleObject(w.handle, 0)
	return err == nil && event == windows.WAIT_OBJECT_0
}

func (w *processWatch) close() {
	if w != nil {
		_ = windows.CloseHandle(w.handle)
	}
}
