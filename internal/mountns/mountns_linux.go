package mountns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// marker tells the process that it was executed again in its own namespace already.
const marker = "AIRLOCK_MOUNT_NAMESPACE"

// Enter moves the process into a mount namespace of its own, by executing it again there with the same
// process id, arguments and environment. Call it first thing in main. It returns only when the process is in
// that namespace, or with an error; it needs CAP_SYS_ADMIN.
func Enter() error {
	if os.Getenv(marker) == fmt.Sprint(os.Getpid()) {
		return os.Unsetenv(marker)
	}
	runtime.LockOSThread() // the namespace is this thread's, and execve keeps this thread's
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	// Slave, not private: what the host unmounts must not stay pinned by us.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detaching from the host's mount propagation: %w", err)
	}
	if err := hideUnifiedHierarchy(); err != nil {
		return err
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d", marker, os.Getpid()))
	if err := unix.Exec("/proc/self/exe", os.Args, env); err != nil {
		return fmt.Errorf("executing in the new mount namespace: %w", err)
	}
	return nil
}

// hideUnifiedHierarchy unmounts the cgroup v2 side hierarchy of a hybrid host, in our namespace only: crun
// refuses hosts where it carries a controller ("cgroups in hybrid mode not supported"), and we use none of it.
func hideUnifiedHierarchy() error {
	const unified = "/sys/fs/cgroup/unified"
	var fs unix.Statfs_t
	if err := unix.Statfs(unified, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("hiding %s: %w", unified, err)
	}
	return nil
}
