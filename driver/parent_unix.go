//go:build unix

package driver

import "os"

// parentGone reports whether the process that called this one has ended: another is its parent then.
func parentGone(parent int) bool { return os.Getppid() != parent }
