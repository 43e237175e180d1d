//go:build !windows

package private

import "os"

// MakeDir makes a directory, and those above it, mode 0700. One that is there keeps its mode.
func MakeDir(dir string) error { return os.MkdirAll(dir, 0o700) }

// Seal does nothing: what Seal is for on Windows, packages and umask do.
func Seal(string) error { return nil }

// CheckOwner does nothing: nobody but root can put a file where ours are looked for.
func CheckOwner(string) error { return nil }

// CheckServiceOwner does nothing, for the same reason.
func CheckServiceOwner(string) error { return nil }
