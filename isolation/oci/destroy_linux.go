package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/isolation"
)

// Destroy removes what is left of a sandbox. What lies in its scratch stays: the scratch is the caller's.
//
// It does not call the OCI runtime's delete: everything below has to be done for half-made containers anyway,
// which delete refuses, and once it is done there is nothing left to delete.
func (r *Runtime) Destroy(ctx context.Context, id string) error {
	if !isolation.ValidID(id) {
		return fault.Systemf("destroying a sandbox: %q is no sandbox id", id)
	}
	defer r.locks.Lock(id)()
	return r.remove(ctx, id)
}

// remove is Destroy with the lock held. It is not cancelled with ctx: what it leaves behind, the reaper would
// have to find.
func (r *Runtime) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), removalTimeout,
		fmt.Errorf("it took longer than %s", removalTimeout))
	defer cancel()

	if err := r.cgroups.KillAll(ctx, id); err != nil {
		return fault.Systemf("destroying sandbox %s: ending its processes: %w", id, err) // they hold all the rest
	}
	bundle := filepath.Join(r.bundleDir, id)
	err := errors.Join(
		r.unmountRoots(bundle),
		r.cgroups.Remove(ctx, id),
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
