package microvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation/ownthread"
)

// jail starts QEMU processes from a thread of its own, which has left the host's mounts behind and given up what no
// QEMU needs. A child inherits both from the thread that forks it, so there is no moment in which a QEMU had more, and
// no other program in between.
//
// What a QEMU sees is its own program and libraries, read-only, the kernels and initramfs, a few device nodes and a
// proc in which all processes but its own are hidden.
type jail struct {
	requests chan startRequest
}

type startRequest struct {
	command *exec.Cmd
	result  chan error
}

// bootMount is where the directory of kernels and initramfs is in a jail.
const bootMount = "/boot"

// newJail makes a jail for the given program, mounted at dir for its thread alone. The directory boots is mounted at bootMount.
func newJail(dir, program, boots string) (*jail, error) {
	j := &jail{requests: make(chan startRequest)}
	ready := make(chan error, 1)
	ownthread.Go(func() { j.run(dir, program, boots, ready) })
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("making the jail of virtual machines: %w", err)
	}
	return j, nil
}

// start starts a command in the jail. The process ends with this one, whatever happens to it.
func (j *jail) start(command *exec.Cmd) error {
	request := startRequest{command, make(chan error, 1)}
	j.requests <- request
	return <-request.result
}

// close ends the jail's thread; machines that run end with it. No start may follow.
func (j *jail) close() { close(j.requests) }

// run is the life of the jail's thread.
func (j *jail) run(dir, program, boots string, ready chan<- error) {
	err := enterJail(dir, program, boots)
	if err == nil {
		err = giveUpPrivileges()
	}
	ready <- err
	if err != nil {
		return
	}
	for request := range j.requests {
		request.result <- request.command.Start()
	}
}

// giveUpPrivileges makes it impossible for children to gain any; the thread keeps its own, to make namespaces.
func giveUpPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", capability, err)
		}
	}
}

// enterJail gives this thread a mount namespace with nothing in it but the jail.
func enterJail(root, program, boots string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detaching from the host's mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mounting the jail's root: %w", err)
	}
	if err := furnish(root, program, boots); err != nil {
		return err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("entering the jail: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the old root, which lies over the new one
		return fmt.Errorf("leaving the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// furnish mounts what QEMU needs below root.
func furnish(root, program, boots string) error {
	const readOnly = unix.MS_RDONLY | unix.MS_NOSUID
	dirs := []string{"/usr", "/lib", "/lib64", "/bin"} // the last three are links into the first, on most hosts
	if !strings.HasPrefix(program, "/usr/") {
		dirs = append(dirs, filepath.Dir(filepath.Dir(program))) // PREFIX/bin/qemu, with PREFIX/lib and PREFIX/share
	}
	for _, dir := range dirs {
		if err := bindInto(root, dir, dir, readOnly|unix.MS_NODEV); err != nil {
			return err
		}
	}
	if err := bindInto(root, boots, bootMount, readOnly|unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
		return err
	}
	for _, file := range []string{"/etc/ld.so.cache", "/etc/alternatives"} {
		if err := bindInto(root, file, file, readOnly|unix.MS_NODEV|unix.MS_NOEXEC); err != nil {
			return err
		}
	}
	if err := makeDevices(root + "/dev"); err != nil {
		return err
	}
	if err := os.Mkdir(root+"/proc", 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "hidepid=invisible,subset=pid"); err != nil {
		return fmt.Errorf("mounting the jail's proc: %w", err)
	}
	return nil
}

// makeDevices makes the device nodes that QEMU opens. Who may use the host's /dev/kvm is not what counts: QEMU's users are
// ours, and no one else is in the jail.
func makeDevices(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mounting the jail's devices: %w", err)
	}
	for _, name := range []string{"null", "zero", "urandom", "kvm"} {
		var stat unix.Stat_t
		err := unix.Stat("/dev/"+name, &stat)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		path := filepath.Join(dir, name)
		if err == nil {
			err = unix.Mknod(path, unix.S_IFCHR|0o666, int(stat.Rdev))
		}
		if err == nil {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			return fmt.Errorf("making the jail's %s: %w", name, err)
		}
	}
	return unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, "")
}

// bindInto binds a directory or file of the host below root, or repeats it if it is a link. What the host does not
// have is left out.
func bindInto(root, source, target string, flags uintptr) error {
	target = filepath.Join(root, target)
	info, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(link, target)
	case info.IsDir():
		err = os.Mkdir(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s into the jail: %w", source, err)
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("binding %s into the jail: %w", source, err)
	}
	return nil
}
