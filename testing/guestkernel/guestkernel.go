// Package guestkernel knows where the kernel is that the tests' virtual machines boot: `make deps` extracts a
// distribution's (scripts/guest-kernel).
package guestkernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Variable names a directory with another kernel: boot/vmlinuz-VERSION and lib/modules/VERSION.
const Variable = "AIRLOCK_KERNEL_DIR"

// Dir returns the directory of the kernel. A host without one cannot run the tests: that is an error, no reason to skip.
func Dir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := cmp.Or(os.Getenv(Variable), filepath.Join(cache, "airlock", "kernel"))
	found, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err == nil && len(found) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		return "", fmt.Errorf("looking for the guests' kernel in %s: %w (run make deps)", dir, err)
	}
	return dir, nil
}
