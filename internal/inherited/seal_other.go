//go:build !linux

package inherited

// Seal does nothing: Windows passes no handle on that is not meant to be (syscall.StartProcess names them one by one).
func Seal() error { return nil }
