package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/airlock-ci/airlock/internal/cleanup"
)

// namespace is a fresh network namespace, held by an open file.
type namespace struct {
	file *os.File
	// links configures it from outside. It holds the namespace too: close it.
	links *netlink.Handle
}

// path leads to the namespace as long as the file is open.
func (n *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// newNamespace makes a namespace with loopback up and IPv6 off on all links that will be added to it.
func newNamespace() (*namespace, error) {
	type result struct {
		ns  *namespace
		err error
	}
	done := make(chan result, 1)
	go func() {
		// A thread that is not brought back into the host's namespace stays locked and ends with the goroutine.
		runtime.LockOSThread()
		host, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{err: fmt.Errorf("opening the host's network namespace: %w", err)}
			return
		}
		defer host.Close()
		ns, err := unshareNamespace()
		if unix.Setns(int(host.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

// unshareNamespace moves the calling thread, which must be locked, into a new namespace.
func unshareNamespace() (made *namespace, err error) {
	undo := cleanup.New(context.Background())
	defer undo.Run(&err)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	ns := &namespace{}
	if ns.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("opening the new network namespace: %w", err)
	}
	undo.Push(ns.file.Close)
	if err := disableIPv6("default"); err != nil {
		return nil, err
	}
	if ns.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("opening netlink in the new namespace: %w", err)
	}
	undo.Push(func() error { ns.links.Close(); return nil })
	if err := ns.links.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil { // lo is always 1
		return nil, fmt.Errorf("setting lo up: %w", err)
	}
	undo.Release()
	return ns, nil
}

// disableIPv6 switches IPv6 off for a link, or as the "default" for links to come, in the calling thread's namespace:
// /proc/sys/net shows that of who opens it. A kernel without IPv6 has no such file.
func disableIPv6(link string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("switching IPv6 off for %s: %w", link, err)
	}
	return nil
}
