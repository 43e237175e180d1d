package agent

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine takes from this thread what an OCI runtime takes from a container: all but a few capabilities, new
// privileges, and the system calls that the filter forbids. What the thread executes keeps that.
func (s GuestSetup) confine() error {
	for limit, value := range map[int]syscall.Rlimit{
		unix.RLIMIT_NOFILE: {Cur: 65536, Max: 524288}, // as in isolation/oci
		unix.RLIMIT_CORE:   {},
	} {
		if err := syscall.Setrlimit(limit, &value); err != nil {
			return fmt.Errorf("limit %d: %w", limit, err)
		}
	}
	if err := s.dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return s.installFilter()
}

// dropCapabilities keeps the bounding set's remainder as the permitted and effective ones, too.
func (s GuestSetup) dropCapabilities() error {
	const wordBits = 32
	var data [2]unix.CapUserData
	for _, number := range s.Capabilities {
		if number >= 2*wordBits {
			return fmt.Errorf("%w: capability %d", errProtocol, number)
		}
		data[number/wordBits].Permitted |= 1 << (number % wordBits)
		data[number/wordBits].Effective |= 1 << (number % wordBits)
	}
	for number := uintptr(0); number < 2*wordBits; number++ {
		if slices.Contains(s.Capabilities, number) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", number, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// installFilter installs the seccomp(2) filter.
func (s GuestSetup) installFilter() error {
	const instruction = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(s.Filter) == 0 || len(s.Filter)%instruction != 0 {
		return fmt.Errorf("%w: a filter of %d bytes", errProtocol, len(s.Filter))
	}
	program := unix.SockFprog{Len: uint16(len(s.Filter) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&s.Filter[0]))}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("installing the filter: %w", err)
	}
	return nil
}
