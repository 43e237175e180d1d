//go:build linux

package network

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Every test runs in a network namespace that plays the host, so that the real one is never touched.
const (
	insideVariable = "AIRLOCK_NETWORK_TEST_INSIDE"
	childVariable  = "AIRLOCK_NETWORK_TEST_CHILD"
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) == "" {
		fmt.Fprintln(os.Stderr, "entering a network namespace:", enterNamespace())
		os.Exit(1)
	}
	if os.Getenv(childVariable) != "" {
		childMain()
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "setting lo up:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enterNamespace executes the test binary again in a new network namespace; it returns only with an error.
func enterNamespace() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), insideVariable+"=1"))
}
