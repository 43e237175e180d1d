// Package seccomp says which system calls a Linux sandbox may make: the same at both levels. It owns that list and applies
// it nowhere: isolation/oci hands it to an OCI runtime, isolation/microvm compiles it for the agent of its guests.
package seccomp
