package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/isolation"
)

// roots are the root file systems of the sandbox after the setup.
type roots struct {
	image, helper *root // helper may be nil
	user          account
}

// prepare makes the directories that stages need. The image's USER is resolved here once, before any code of the
// job ran: whatever a job does to its passwd file, helper stages keep this user.
func (s *server) prepare(req setupRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roots != nil {
		return fmt.Errorf("%w: a second setup", errProtocol)
	}
	image, err := openRoot("/")
	if err != nil {
		return err
	}
	user, err := image.account(req.User)
	if err != nil {
		return err
	}
	rs := &roots{image: image, user: user}
	if req.Helper {
		if rs.helper, err = openRoot(isolation.HelperPath); err != nil {
			return err
		}
		if err := rs.helper.emptyHome(user); err != nil {
			return err
		}
	}
	if err := image.makeDir(isolation.BuildsDir, 0o755, user.uid, user.gid); err != nil {
		return err
	}
	// It may be that of jobs with other users too, some of which run now.
	if err := image.makeDir(isolation.CacheDir, 0o777, 0, 0); err != nil {
		return err
	}
	for _, r := range []*root{rs.image, rs.helper} {
		if r == nil {
			continue
		}
		if err := r.makeScripts(); err != nil {
			return err
		}
	}
	s.roots = rs
	return nil
}

// makeDir makes a directory of the root, if it is missing, and gives it the owner and mode. No component of
// the path may be a symbolic link.
func (r *root) makeDir(path string, mode uint32, uid, gid int) error {
	if err := os.MkdirAll(r.path+path, 0o755); err != nil {
		return fmt.Errorf("preparing the sandbox: %w", err)
	}
	fd, err := r.open(path, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fmt.Errorf("preparing %s%s: %w", r.path, path, err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Fchown(fd, uid, gid), unix.Fchmod(fd, mode)); err != nil {
		return fmt.Errorf("giving %s%s to user %d: %w", r.path, path, uid, err)
	}
	return nil
}

// makeScripts makes the directory of scripts and keeps it open.
func (r *root) makeScripts() error {
	if err := r.makeDir(isolation.ScriptDir, 0o711, 0, 0); err != nil {
		return err
	}
	fd, err := r.open(isolation.ScriptDir, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fmt.Errorf("opening %s%s: %w", r.path, isolation.ScriptDir, err)
	}
	r.scripts = fd
	return nil
}

// emptyHome makes the helper stages' home and removes what earlier stages left in it. A job that is root can write there, and
// what it plants (a .gitconfig, a .netrc) must not meet the next helper stage, which carries the job's credentials.
func (r *root) emptyHome(owner account) error {
	if err := r.makeDir(isolation.HomeDir, 0o700, owner.uid, owner.gid); err != nil {
		return err
	}
	home, err := os.OpenRoot(r.path + isolation.HomeDir)
	if err != nil {
		return fmt.Errorf("opening the helper stages' home: %w", err)
	}
	defer home.Close()
	dir, err := home.Open(".")
	if err != nil {
		return fmt.Errorf("opening the helper stages' home: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("listing the helper stages' home: %w", err)
	}
	for _, name := range names {
		if err := home.RemoveAll(name); err != nil {
			return fmt.Errorf("emptying the helper stages' home: %w", err)
		}
	}
	return nil
}
