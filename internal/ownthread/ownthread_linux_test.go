package ownthread

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The test's own goroutine holds the main thread until it blocks; what it starts then is likely to be run there.
func init() { runtime.GOMAXPROCS(1) }

// TestNeverTheMainThread: a thread of do's own, neither the main one nor one that is used again.
func TestNeverTheMainThread(t *testing.T) {
	threads := make(chan int)
	for range 100 {
		Go(func() { threads <- unix.Gettid() })
	}
	for range 100 {
		require.NotEqual(t, unix.Getpid(), <-threads)
	}
}

// TestNamespaceEnds: a namespace that do entered is nobody's when do has ended.
func TestNamespaceEnds(t *testing.T) {
	for range 100 {
		done := make(chan error)
		Go(func() { done <- unix.Unshare(unix.CLONE_NEWUTS) })
		require.NoError(t, <-done)
	}
	before := utsOf(t, "/proc/self/ns/uts")
	for range 100 {
		seen := make(chan string)
		go func() { seen <- utsOf(t, "/proc/thread-self/ns/uts") }()
		require.Equal(t, before, <-seen)
	}
}

func utsOf(t *testing.T, link string) string {
	buffer := make([]byte, 64)
	n, err := unix.Readlink(link, buffer)
	if err != nil {
		t.Error(err)
	}
	return string(buffer[:max(n, 0)])
}
