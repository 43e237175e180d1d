package cache

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/airlock-ci/airlock/internal/fault"
	"github.com/airlock-ci/airlock/internal/identity"
)

// lockDir takes the directory for this process. The system gives it free when the process ends, however.
func lockDir(dir string) (*identity.Lock, error) {
	lock, err := identity.Acquire(filepath.Join(dir, "lock"))
	if errors.Is(err, identity.ErrLocked) {
		return nil, fault.WithRemedy(fault.Adminf("the cache %s is in use by another executor: %w", dir, err),
			"stop it, or give this one a state_dir of its own")
	}
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	return lock, nil
}
