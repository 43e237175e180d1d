package main

import "github.com/airlock-ci/airlock/internal/private"

// makeRoot makes state_dir or run_dir, closed to all but the system and administrators: modes of files mean nothing
// here, so all that is below takes this access over.
func makeRoot(dir string) error { return private.MakeDir(dir) }
