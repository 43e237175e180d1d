package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/frame"
	"github.com/airlock-ci/airlock/isolation"
)

// roots are the root file systems of the sandbox after the setup.
type roots struct {
	image, helper *root // helper may be nil
	user          account
	shell         string // the image's, empty if it has none
}

// prepare makes the directories that stages need. The image's USER is resolved here once, before any code of the
// job ran: whatever a job does to its passwd file, helper stages keep this user.
func (s *server) prepare(req setupRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roots != nil {
		return fmt.Errorf("%w: a second setup", frame.ErrProtocol)
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
	if rs.shell, err = image.shell(req.Path); err != nil && req.Scripts {
		return err
	}
	if err := image.makeDir(isolation.BuildsDir, 0o755, user.uid, user.gid); err != nil {
		return err
	}
	// It may be that of jobs with other users too, some of which run now.
	if err := image.makeDir(isolation.CacheDir, 0o777, 0, 0); err != nil {
		return err
	}
	if req.Helper {
		if rs.helper, err = prepareHelper(req); err != nil {
			return err
		}
	}
	for _, r := range []*root{rs.image, rs.helper} {
		if r == nil {
			continue
		}
		if err := errors.Join(r.adopt(), r.renew(user, true)); err != nil {
			return err
		}
	}
	s.roots = rs
	return nil
}

func prepareHelper(req setupRequest) (*root, error) {
	helper, err := openRoot(isolation.HelperPath)
	if err != nil {
		return nil, err
	}
	helper.helper = true
	if _, err := helper.shell(req.HelperPath); err != nil && req.Scripts {
		return nil, helper.blame(err)
	}
	return helper, nil
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
