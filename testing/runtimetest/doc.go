// Package runtimetest is what the tests of the Linux runtimes have in common: programs to put into sandboxes, and what of
// the host belongs to one package's tests, so that they see a leak of their own while other packages' tests run.
// (testing/leakcheck looks at the whole host, and wants it for itself.)
//
// Its callers are isolation/oci and isolation/microvm, and all tests that need a static program. Linux only.
package runtimetest
