// Package microvm is the hypervisor level on Linux: every sandbox is a QEMU virtual machine with a kernel of its own,
// cloned from a template that was booted once, with the agent as its first process.
//
// It owns the machines' processes and cgroups, the kernel and initramfs they boot, and the templates below
// Options.StateDir; disks and tap devices belong to the caller. It trusts neither a guest nor the QEMU that a guest
// may have taken over: QEMU runs without privileges in namespaces and a cgroup of its own, sees a file system with
// QEMU in it and nothing else, and has only the descriptors that it needs. No host directory is shared with a guest.
// cmd/airlock-executor is its caller; when that dies, the kernel ends its machines.
//
// It needs Linux 5.10 or newer on x86-64 and QEMU 7.2 or newer.
package microvm
