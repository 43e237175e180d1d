package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/executor/api/fault"
)

// Destroy removes what is left of a sandbox. What lies in its scratch stays: the scratch is the caller's.
//
// It does not call the OCI runtime's delete: everything below has to be done for half-made containers anyway,
// which delete refuses, and once it is done there is nothing left to delete.
func (r *Runtime) Destroy(ctx context.Context, id string) error {
	if !validID.MatchString(id) {
		return fault.Systemf("destroying a sandbox: %q is no sandbox id", id)
	}
	defer r.locks.lock(id)()
	return r.remove(ctx, id)
}

// remove is Destroy with the lock held. It is not cancelled with ctx: what it leaves behind, the reaper would
// have to find.
func (r *Runtime) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), removalTimeout,
		fmt.Errorf("it took longer than %s", removalTimeout))
	defer cancel()

	if err := r.killAll(ctx, id); err != nil {
		return fault.Systemf("destroying sandbox %s: ending its processes: %w", id, err) // they hold all the rest
	}
	bundle := filepath.Join(r.bundleDir, id)
	err := errors.Join(
		r.unmountRoots(bundle),
		r.removeCgroups(ctx, id),
		os.RemoveAll(filepath.Join(r.stateDir, id)),
	)
	if err == nil { // the bundle goes last: it knows where the mounts are
		err = os.RemoveAll(bundle)
	}
	if err != nil {
		return fault.Systemf("destroying sandbox %s: %w", id, err)
	}
	return nil
}

// killAll ends every process in the sandbox's cgroup. The first round kills process 1, and with it the kernel
// kills all of its namespace and lets none be born; what is left are processes that had not got there yet.
func (r *Runtime) killAll(ctx context.Context, id string) error {
	return retry(ctx, func() (done bool, err error) {
		dirs, err := r.cgroups.dirs(id)
		if err != nil {
			return false, err
		}
		pids, err := processes(dirs)
		if err != nil || len(pids) == 0 {
			return err == nil, err
		}
		for _, pid := range pids {
			if err := killMember(pid, dirs); err != nil {
				return false, fmt.Errorf("process %d: %w", pid, err)
			}
		}
		return false, fmt.Errorf("%d processes do not end", len(pids))
	})
}

// killMember kills the process with this id if it is in one of the cgroups: looked up again with a descriptor
// of the process in hand, because the id may have passed to another process since it was read.
func killMember(pid int, dirs []string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // gone; or a thread's id, as its leader is gone
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	members, err := processes(dirs)
	if err != nil || !slices.Contains(members, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// removeCgroups removes the sandbox's cgroups, which stay busy for a moment after their last process.
func (r *Runtime) removeCgroups(ctx context.Context, id string) error {
	return retry(ctx, func() (done bool, err error) {
		dirs, err := r.cgroups.dirs(id)
		if err != nil {
			return false, err
		}
		slices.Reverse(dirs) // children first
		var busy error
		for _, dir := range dirs {
			// rmdir itself: os.Remove would first try to unlink every one of them.
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				busy = fmt.Errorf("removing %s: %w", dir, err)
			}
		}
		return busy == nil, busy
	})
}

// unmountRoots unmounts the roots in the scratch that the bundle points to. Mounts of an earlier executor went
// with its mount namespace; then only their empty mount points are left.
func (r *Runtime) unmountRoots(bundle string) error {
	dir, err := os.Readlink(filepath.Join(bundle, scratchLink))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was mounted yet
	}
	if err != nil {
		return err
	}
	var failed error
	for _, target := range []string{scratch(dir).helper(), scratch(dir).rootfs()} {
		err := unmount(target)
		if err == nil {
			if err = unix.Rmdir(target); errors.Is(err, unix.ENOENT) {
				err = nil
			}
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// retry calls attempt until it is done, from every millisecond to every 50 ms. When the context ends first, it
// returns the last attempt's error.
func retry(ctx context.Context, attempt func() (done bool, err error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		done, err := attempt()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
