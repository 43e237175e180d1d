//go:build !windows

package main

// windowsVersion is empty: this host is no Windows.
func windowsVersion() string { return "" }
