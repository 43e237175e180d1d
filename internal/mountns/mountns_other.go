//go:build !linux

package mountns

// Enter does nothing: only Linux has mount namespaces.
func Enter() error { return nil }
