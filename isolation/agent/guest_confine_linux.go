package agent

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/layout"
)

// confine takes from this thread what an OCI runtime takes from a container: all but a few capabilities, new
// privileges, and the system calls that the filter forbids. What the thread executes keeps that.
func confine(filter []byte) error {
	for limit, value := range map[int]syscall.Rlimit{
		unix.RLIMIT_NOFILE: {Cur: 65536, Max: 524288}, // as in isolation/oci
		unix.RLIMIT_CORE:   {},
	} {
		if err := syscall.Setrlimit(limit, &value); err != nil {
			return fmt.Errorf("limit %d: %w", limit, err)
		}
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return installFilter(filter)
}

// capabilityNumbers are those of capabilities(7) that a sandbox may have.
var capabilityNumbers = map[string]uintptr{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FOWNER": unix.CAP_FOWNER,
	"CAP_FSETID": unix.CAP_FSETID, "CAP_KILL": unix.CAP_KILL, "CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_SETGID": unix.CAP_SETGID, "CAP_SETPCAP": unix.CAP_SETPCAP,
	"CAP_SETUID": unix.CAP_SETUID, "CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT,
}

// dropCapabilities keeps the bounding set's remainder as the permitted and effective ones, too.
func dropCapabilities() error {
	const wordBits = 32
	var data [2]unix.CapUserData
	keep := make([]uintptr, len(layout.Capabilities))
	for i, name := range layout.Capabilities {
		number, ok := capabilityNumbers[name]
		if !ok {
			return fmt.Errorf("the number of %s is not known", name)
		}
		keep[i] = number
		data[number/wordBits].Permitted |= 1 << (number % wordBits)
		data[number/wordBits].Effective |= 1 << (number % wordBits)
	}
	for number := uintptr(0); number < 2*wordBits; number++ {
		if slices.Contains(keep, number) {
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
func installFilter(filter []byte) error {
	const instruction = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(filter) == 0 || len(filter)%instruction != 0 {
		return fmt.Errorf("a filter of %d bytes", len(filter))
	}
	program := unix.SockFprog{Len: uint16(len(filter) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fmt.Errorf("installing the filter: %w", err)
	}
	return nil
}
