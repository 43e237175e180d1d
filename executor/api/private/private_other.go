//go:build !windows

package private

import "os"

// MakeDir makes a directory, and those above it, mode 0700. One that is there keeps its mode.
func MakeDir(dir string) error { return os.MkdirAll(dir, 0o700) }
