package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
)

// Airlock's own directory in a root, isolation.Dir, is a tmpfs. A job that is root can do there what it likes: remove the
// directory of scripts, put a link in its place, fill it, plant a .gitconfig in the helper stages' home, which the next of
// them, with the job's credentials, would read. So it is made anew before each process that is alone in its root.

// adopt notes what is mounted in the root's own directory. No code of the job may have run yet.
func (r *root) adopt() (err error) {
	own, err := os.OpenRoot(r.path + isolation.Dir)
	if err != nil {
		return fmt.Errorf("preparing the sandbox: %w", err)
	}
	defer own.Close()
	r.mounts, err = listRoot(own)
	return err
}

// renew makes the root's own directory what it was at first: what is mounted there, an empty directory of scripts and,
// in the helper root, an empty home of the owner's. What stands in the way, or cannot be removed, the job has put there.
// While others run in the root, only what is missing is made.
func (r *root) renew(owner account, alone bool) error {
	own, err := os.OpenRoot(r.path + isolation.Dir)
	if err != nil {
		return fmt.Errorf("preparing the stage: %w", err)
	}
	defer own.Close()
	err = errors.Join(own.Chown(".", 0, 0), own.Chmod(".", 0o755))
	if alone {
		err = errors.Join(err, r.sweep(own))
	}
	err = errors.Join(err, makeOwn(own, path.Base(isolation.ScriptDir), 0o711, 0, 0))
	if r.helper {
		err = errors.Join(err, makeOwn(own, path.Base(isolation.HomeDir), 0o700, owner.uid, owner.gid))
	}
	if err != nil {
		return fault.Authorf("preparing the stage in %s%s, which the job has changed: %w", r.path, isolation.Dir, err)
	}
	return nil
}

// sweep removes everything that is not mounted. A job can mount nothing.
func (r *root) sweep(own *os.Root) error {
	names, err := listRoot(own)
	for _, name := range names {
		if !slices.Contains(r.mounts, name) {
			err = errors.Join(err, own.RemoveAll(name))
		}
	}
	return err
}

func listRoot(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// makeOwn makes sure that name is a directory of that mode and owner.
func makeOwn(own *os.Root, name string, mode os.FileMode, uid, gid int) error {
	if info, err := own.Lstat(name); err != nil || !info.IsDir() {
		if err := errors.Join(own.RemoveAll(name), own.Mkdir(name, 0o700)); err != nil {
			return err
		}
	}
	return errors.Join(own.Chown(name, uid, gid), own.Chmod(name, mode))
}

// openScripts opens the directory of scripts.
func (r *root) openScripts() (int, error) {
	return r.open(isolation.ScriptDir, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
}

// writeScript writes a script to a file that only the user can read, and returns its name in isolation.ScriptDir.
// Nobody can have put anything in its place, because the name cannot be guessed.
func (r *root) writeScript(script *scriptReader, a account) (name string, err error) {
	size := script.left
	dir, err := r.openScripts()
	if err != nil {
		return "", scriptError(r, size, err)
	}
	defer unix.Close(dir)
	name = "stage-" + rand.Text()
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", scriptError(r, size, err)
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(file, script)
	if err = errors.Join(err, file.Chown(a.uid, a.gid), file.Chmod(0o700), file.Close()); err != nil {
		_ = unix.Unlinkat(dir, name, 0)
		return "", scriptError(r, size, err)
	}
	return name, nil
}

// scriptError classifies what hinders a script. Its place was made anew, so a lack of room is not this stage's
// predecessors'; all that else can happen to it there a job does that still runs.
func scriptError(r *root, size int64, err error) error {
	if errors.Is(err, frame.ErrProtocol) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return err // the executor's
	}
	return fault.WithRemedy(fault.Authorf("writing the script, %d bytes, to %s%s: %w", size, r.path, isolation.ScriptDir, err),
		"make it smaller: a script has at most 64 MiB, and a sixteenth of a virtual machine's memory")
}

// removeScript removes a script; one that the job removed itself is fine.
func (r *root) removeScript(name string) {
	dir, err := r.openScripts()
	if err != nil {
		return
	}
	defer unix.Close(dir)
	_ = unix.Unlinkat(dir, name, 0)
}
