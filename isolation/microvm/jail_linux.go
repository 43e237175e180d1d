package microvm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/inherited"
	"github.com/airlock-ci/airlock/internal/ownthread"
	"github.com/airlock-ci/airlock/isolation"
)

// jail starts QEMU processes from a thread of its own, which has left the host's mounts behind and given up what no
// QEMU needs. A child inherits both from the thread that forks it, so there is no moment in which a QEMU had more, and
// no other program in between.
//
// What a QEMU sees is its own program and libraries, read-only, the kernels and initramfs, a few device nodes and a
// proc in which all processes but its own are hidden.
//
// Each QEMU has a user namespace of its own, in which there is no user but its own. The kernel gives the first process of
// a user namespace every capability in it and a full bounding set, and os/exec cannot take them away, so setpriv(1) of
// util-linux runs between the two, as QEMU's own user already and with one capability, to drop that set: nothing that
// QEMU may execute ever could have a capability again, also not in its own namespace.
type jail struct {
	program  string // QEMU
	setpriv  string
	requests chan startRequest
}

type startRequest struct {
	command *exec.Cmd
	result  chan error
}

// dropAll are setpriv's arguments before the program's.
var dropAll = []string{"--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--"}

// confined are the user, the namespaces and the bond to this process of a QEMU, which setpriv completes.
func confined(user uint32) *syscall.SysProcAttr {
	own := []syscall.SysProcIDMap{{ContainerID: int(user), HostID: int(user), Size: 1}}
	return &syscall.SysProcAttr{
		Setsid: true, Credential: &syscall.Credential{Uid: user, Gid: user}, Pdeathsig: syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		// Our own supplementary groups are given up by setgroups(2), which this allows until the capabilities are gone.
		UidMappings: own, GidMappings: own, GidMappingsEnableSetgroups: true,
		AmbientCaps: []uintptr{unix.CAP_SETPCAP},
	}
}

// userNamespaces is where Linux says how many user namespaces there may be (namespaces(7)): 0 switches them off, and a kernel
// that was built without has no such file. Other switches (kernel.unprivileged_userns_clone, AppArmor's) do not bind root.
const userNamespaces = "/proc/sys/user/max_user_namespaces"

const moreUserNamespaces = "sysctl -w user.max_user_namespaces=15000, and the same line in /etc/sysctl.d: each virtual machine takes one"

// checkUserNamespaces refuses a host on which QEMU could not have a user namespace of its own. Path is userNamespaces.
func checkUserNamespaces(path string) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.WithRemedy(fault.Systemf("virtual machines need user namespaces, which this kernel has not: %w", isolation.ErrUnsupported),
			"use a kernel with CONFIG_USER_NS, as distributions' are")
	}
	if err != nil {
		return fault.Systemf("looking for user namespaces: %w", err)
	}
	if strings.TrimSpace(string(content)) == "0" {
		return fault.WithRemedy(fault.Systemf("virtual machines need user namespaces, which %s = 0 switches off: %w", path, isolation.ErrUnsupported),
			moreUserNamespaces)
	}
	return nil
}

// bootMount is where the directory of kernels and initramfs is in a jail.
const bootMount = "/boot"

// newJail makes a jail for the given program, mounted at dir for its thread alone. The directory boots is mounted at bootMount.
func newJail(dir, program, boots string) (*jail, error) {
	setpriv, err := findSetpriv()
	if err != nil {
		return nil, err
	}
	j := &jail{program: program, setpriv: setpriv, requests: make(chan startRequest)}
	ready := make(chan error, 1)
	ownthread.Go(func() { j.run(dir, boots, ready) })
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("making the jail of virtual machines: %w", err)
	}
	return j, nil
}

// findSetpriv returns the path of setpriv.
func findSetpriv() (string, error) {
	path, err := exec.LookPath("setpriv")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fault.WithRemedy(fault.Systemf("there is no setpriv: %w: %w", err, isolation.ErrUnsupported), "install the package util-linux")
	}
	return path, nil
}

// start starts QEMU in the jail, as a user and with arguments and open files (os/exec's ExtraFiles). The process ends with
// this one, whatever happens to it.
func (j *jail) start(user uint32, arguments []string, files []*os.File, stderr io.Writer) (*exec.Cmd, error) {
	command := &exec.Cmd{
		Path: j.setpriv, Args: slices.Concat([]string{j.setpriv}, dropAll, []string{j.program}, arguments),
		Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/", Stderr: stderr, ExtraFiles: files, SysProcAttr: confined(user),
	}
	request := startRequest{command, make(chan error, 1)}
	j.requests <- request
	return command, explainStart(<-request.result)
}

// explainStart adds what to do about a start that failed for want of user namespaces.
func explainStart(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EUSERS) {
		return err
	}
	return fault.WithRemedy(fault.Systemf("this host has no more user namespaces to give: %w", err), moreUserNamespaces)
}

// close ends the jail's thread; machines that run end with it. No start may follow.
func (j *jail) close() { close(j.requests) }

// run is the life of the jail's thread.
func (j *jail) run(dir, boots string, ready chan<- error) {
	err := j.enter(dir, boots)
	if err == nil {
		err = giveUpPrivileges()
	}
	ready <- err
	if err != nil {
		return
	}
	for request := range j.requests {
		// os/exec passes on what it is told and whatever is open without close-on-exec: what our parent left open.
		err := inherited.Seal()
		if err == nil {
			err = request.command.Start()
		}
		request.result <- err
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

// enter gives this thread a mount namespace with nothing in it but the jail.
func (j *jail) enter(root, boots string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detaching from the host's mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mounting the jail's root: %w", err)
	}
	if err := provision(root, boots, j.program, j.setpriv); err != nil {
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

// provision mounts what the programs need below root.
func provision(root, boots string, programs ...string) error {
	const readOnly = unix.MS_RDONLY | unix.MS_NOSUID
	dirs := []string{"/usr", "/lib", "/lib64", "/bin"} // the last three are links into the first, on most hosts
	for _, program := range programs {
		prefix := filepath.Dir(filepath.Dir(program)) // PREFIX/bin/qemu, with PREFIX/lib and PREFIX/share
		if prefix != "/" && !strings.HasPrefix(program, "/usr/") && !slices.Contains(dirs, prefix) {
			dirs = append(dirs, prefix)
		}
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

// makeDevices makes the device nodes that QEMU opens. The modes of the host's /dev/kvm do not count: QEMU's users are
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
