// Package ownthread runs what changes its thread for good: a namespace is left, and privileges are given up, for one
// thread alone, and the Go runtime moves goroutines from thread to thread.
package ownthread
