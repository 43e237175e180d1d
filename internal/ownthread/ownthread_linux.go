package ownthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Go calls do in a goroutine on a thread that ends with it: it is never unlocked, so the Go runtime does not use it
// again. It is never the main thread, which cannot end, and whose namespaces /proc/self shows as the process's.
func Go(do func()) { go run(do) }

func run(do func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread() // another thread, as this one is held until then
		close(locked)
		do()
	}()
	<-locked
	runtime.UnlockOSThread()
}
