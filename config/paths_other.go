//go:build !windows

package config

// DefaultPath is where the configuration is looked for when no path is given.
const DefaultPath = "/etc/airlock/config.toml"

const (
	defaultStateDir = "/var/lib/airlock"
	defaultRunDir   = "/run/airlock"
)
