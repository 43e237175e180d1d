package identity

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Windows knows no polite request for a process without a window or a console to end. An executor therefore makes a
// named event, which only the system and administrators may set, and ends when it is set.

// stopEvent is the event's name. "Global" is every session's: the service's and an administrator's.
func stopEvent(p Process) (*uint16, error) {
	return windows.UTF16PtrFromString(fmt.Sprintf(`Global\airlock-stop-%d-%x`, p.PID, p.Start))
}

// AwaitStop returns a channel that is closed when somebody asks this process to end; it watches until ctx ends.
func AwaitStop(ctx context.Context) (<-chan struct{}, error) {
	self, err := Self()
	if err != nil {
		return nil, err
	}
	name, err := stopEvent(self)
	if err != nil {
		return nil, err
	}
	descriptor, err := windows.SecurityDescriptorFromString("D:P(A;;GA;;;SY)(A;;GA;;;BA)")
	if err != nil {
		return nil, err
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(*attributes))
	event, err := windows.CreateEvent(attributes, 1, 0, name)
	if errors.Is(err, windows.ERROR_ALREADY_EXISTS) || errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_INVALID_HANDLE) {
		// Anyone may make an event, or something else, of any name. A stranger's keeps us from being asked, not from serving:
		// who asks in vain ends this process after a while.
		if event != 0 {
			_ = windows.CloseHandle(event)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("making the event that asks this process to end: %w", err)
	}
	asked := make(chan struct{})
	go func() {
		defer func() { _ = windows.CloseHandle(event) }()
		for ctx.Err() == nil {
			if waitExited(event, 250) { // any object is waited for alike
				close(asked)
				return
			}
		}
	}()
	return asked, nil
}

// askToStop sets the event of another process; it fails when that has none.
func askToStop(p Process) error {
	name, err := stopEvent(p)
	if err != nil {
		return err
	}
	event, err := windows.OpenEvent(windows.EVENT_MODIFY_STATE, false, name)
	if err != nil {
		return err
	}
	defer func() { _ = windows.CloseHandle(event) }()
	return windows.SetEvent(event)
}
