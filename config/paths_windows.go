package config

import (
	"os"
	"path/filepath"
)

// All that is Airlock's lies below %ProgramData%\Airlock.
var (
	// DefaultPath is where the configuration is looked for when no path is given.
	DefaultPath = filepath.Join(programData(), "config.toml")

	defaultStateDir = filepath.Join(programData(), "state")
	defaultRunDir   = filepath.Join(programData(), "run")
)

func programData() string {
	dir := os.Getenv("ProgramData")
	if !filepath.IsAbs(dir) {
		dir = `C:\ProgramData`
	}
	return filepath.Join(dir, "Airlock")
}
