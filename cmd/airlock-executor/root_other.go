//go:build !windows

package main

import "os"

// makeRoot makes state_dir or run_dir. What must be closed to others closes itself.
func makeRoot(dir string) error { return os.MkdirAll(dir, 0o755) }
