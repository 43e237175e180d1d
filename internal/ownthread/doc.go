// Package ownthread runs what changes its thread for good: who leaves a namespace, or gives up privileges, does so for
// one thread, and the Go runtime moves goroutines from thread to thread.
package ownthread
