//go:build !linux

package store

// bootID returns nothing: only Linux names its boots.
func bootID() string { return "" }
