package probes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call and returns its error; a descriptor that it returns goes with the process.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func mountTmpfs() error { return mountSomewhere("tmpfs") }

func mountCgroup() error {
	version1 := mountSomewhere("cgroup")
	if version1 == nil {
		return nil
	}
	return errors.Join(version1, mountSomewhere("cgroup2"))
}

func mountSomewhere(kind string) error {
	dir, err := os.MkdirTemp("", "airlock-probe-")
	if err != nil {
		return err
	}
	options := ""
	if kind == "cgroup" {
		options = "none,name=airlock-probe"
	}
	if err := unix.Mount("probe", dir, kind, 0, options); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
}

func fsopen() error {
	_, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	return err
}

func remount() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") }

// unmount asks for a path that is no mount: EINVAL is for callers with the rights.
func unmount() error { return unlessPrivileged(unix.Unmount("/proc/self", 0), unix.EINVAL) }

func pivotRoot() error { return unlessPrivileged(unix.PivotRoot("/", "/"), unix.EBUSY, unix.EINVAL) }

func newUserNamespace() error {
	child := exec.Command("/proc/self/exe", "-nothing")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
	return child.Run()
}

func newMountNamespace() error {
	runtime.LockOSThread()
	return unix.Unshare(unix.CLONE_NEWNS)
}

func joinNamespace() error {
	runtime.LockOSThread()
	fd, err := unix.Open(initDir+"ns/uts", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Setns(fd, unix.CLONE_NEWUTS)
}

func setHostname() error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return unix.Sethostname([]byte(name))
}

// ptraceInit seizes process 1, which does not stop it; the end of this process lets it go.
func ptraceInit() error {
	runtime.LockOSThread()
	const seize = 0x4206 // PTRACE_SEIZE
	return call(unix.SYS_PTRACE, seize, 1, 0, 0)
}

// readInitMemory reads nothing at address 0: EFAULT is for callers with the rights.
func readInitMemory() error {
	buffer := make([]byte, 8)
	local := []unix.Iovec{{Base: &buffer[0], Len: 8}}
	_, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 0, Len: 8}}, 0)
	return unlessPrivileged(err, unix.EFAULT)
}

// initDescriptors looks where any descriptor of process 1 leads; that it has them is no secret.
func initDescriptors(targets Targets) (string, error) {
	links, err := filepath.Glob(initDir + "fd/*")
	if err != nil {
		return "", err
	}
	if len(links) == 0 {
		return "", errors.New("there are none to be seen")
	}
	return paths(func(path string) error {
		_, err := os.Readlink(path)
		return err
	}, links...)(targets)
}

func takeDescriptor() error {
	fd, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return err
	}
	_, err = unix.PidfdGetfd(fd, 0, 0)
	return err
}

func kernelLog() error {
	const readAll = 3
	_, err := unix.Klogctl(readAll, make([]byte, 64))
	return err
}

func keyctl() error {
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	return err
}

func bpf() error {
	// struct { type, key size, value size, entries } of BPF_MAP_CREATE: an array of one.
	attributes := [32]uint32{2, 4, 4, 1}
	return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes))
}

func perfEventOpen() error {
	attributes := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	attributes.Size = uint32(unsafe.Sizeof(attributes))
	_, err := unix.PerfEventOpen(&attributes, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return err
}

func ioUring() error {
	var parameters [120]byte // struct io_uring_params
	return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&parameters)))
}

func userfaultfd() error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) }

func initModule() error {
	return unlessPrivileged(call(unix.SYS_INIT_MODULE, 0, 0, 0), unix.EFAULT, unix.EINVAL, unix.ENOEXEC)
}

func finitModule() error {
	const nothing = ^uintptr(0)
	return unlessPrivileged(call(unix.SYS_FINIT_MODULE, nothing, 0, 0), unix.EBADF, unix.EFAULT, unix.EINVAL)
}

// kexec passes flags that do not exist.
func kexec() error {
	return unlessPrivileged(call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0x7fff), unix.EINVAL)
}

// reboot passes no magic numbers.
func reboot() error { return unlessPrivileged(call(unix.SYS_REBOOT, 0, 0, 0, 0), unix.EINVAL) }

// setClock sets the clock's frequency to what it is.
func setClock() error {
	var state unix.Timex
	if _, err := unix.Adjtimex(&state); err != nil {
		return err
	}
	state.Modes = unix.ADJ_FREQUENCY
	_, err := unix.Adjtimex(&state)
	return err
}

func swapon() error {
	path, err := unix.BytePtrFromString(filepath.Join(os.TempDir(), "no-such-file"))
	if err != nil {
		return err
	}
	return unlessPrivileged(call(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0), unix.ENOENT)
}
