//go:build linux && !amd64

package microvm

// tscKHz is 0 where there is no time stamp counter; machines are x86-64's only.
func tscKHz() int64 { return 0 }
