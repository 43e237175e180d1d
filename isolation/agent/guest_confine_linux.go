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

// limitPrivileges takes what nothing in the sandbox may ever have: other capabilities, new privileges, other limits. It
// keeps the inheritable capabilities, by which a root process keeps what is outside of its bounding set when it
// executes; confine takes those.
func limitPrivileges() error {
	if err := setRlimits(); err != nil {
		return err
	}
	keep, err := kept()
	if err != nil {
		return err
	}
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		return err
	}
	for i := range have { // only possible while they are in the bounding set
		have[i].Inheritable = have[i].Permitted
	}
	if err := unix.Capset(&header, &have[0]); err != nil {
		return fmt.Errorf("making capabilities inheritable: %w", err)
	}
	for number := uintptr(0); ; number++ {
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
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}

// setRlimits sets the limits of each process.
func setRlimits() error {
	for _, limit := range layout.Rlimits {
		number, ok := rlimitNumbers[limit.Type]
		if !ok {
			return fmt.Errorf("the number of %s is not known", limit.Type)
		}
		if err := syscall.Setrlimit(number, &syscall.Rlimit{Cur: limit.Soft, Max: limit.Hard}); err != nil {
			return fmt.Errorf("setting %s: %w", limit.Type, err)
		}
	}
	return nil
}

// rlimitNumbers are those of getrlimit(2).
var rlimitNumbers = map[string]int{
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_NPROC": unix.RLIMIT_NPROC,
}

// confine leaves the agent, all its threads, and with it the job, with what an OCI runtime leaves a container: few
// capabilities, and the system calls that the filter allows.
func confine(filter []byte) error {
	keep, err := kept()
	if err != nil {
		return err
	}
	var data [2]unix.CapUserData
	for _, number := range keep {
		data[number/32].Permitted |= 1 << (number % 32)
		data[number/32].Effective |= 1 << (number % 32)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("dropping capabilities: %w", errno)
	}
	return installFilter(filter)
}

// capabilityNumbers are those of capabilities(7) that a sandbox may have.
var capabilityNumbers = map[string]uintptr{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FOWNER": unix.CAP_FOWNER,
	"CAP_FSETID": unix.CAP_FSETID, "CAP_KILL": unix.CAP_KILL, "CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
	"CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_SETGID": unix.CAP_SETGID, "CAP_SETPCAP": unix.CAP_SETPCAP,
	"CAP_SETUID": unix.CAP_SETUID, "CAP_SYS_CHROOT": unix.CAP_SYS_CHROOT,
}

// kept are the numbers of the capabilities that a sandbox has.
func kept() ([]uintptr, error) {
	numbers := make([]uintptr, len(layout.Capabilities))
	for i, name := range layout.Capabilities {
		number, ok := capabilityNumbers[name]
		if !ok {
			return nil, fmt.Errorf("the number of %s is not known", name)
		}
		numbers[i] = number
	}
	return numbers, nil
}

// installFilter installs the seccomp(2) filter in all threads.
func installFilter(filter []byte) error {
	const instruction = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(filter) == 0 || len(filter)%instruction != 0 {
		return fmt.Errorf("a filter of %d bytes", len(filter))
	}
	program := unix.SockFprog{Len: uint16(len(filter) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("installing the filter: %w", errno)
	}
	return nil
}
