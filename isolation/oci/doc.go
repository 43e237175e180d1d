// Package oci is the process level on Linux: every sandbox is a container of crun, runc or gVisor's runsc, in namespaces of
// its own, below one cgroup, with an overlay of the image's layers as its root and the agent as process 1.
//
// It owns the containers, their overlay and helper mounts, their cgroups and their state below
// Options.RunDir; the scratch, the layers and the network namespace belong to the caller. It never signals a
// bare process id, never follows a link that an image planted, and never leaves anything when Create fails.
// cmd/airlock-executor is its caller, in a mount namespace of its own (package mountns), so that the kernel
// removes the mounts when the executor dies.
//
// It needs Linux 5.10 or newer: proc's subset=pid (5.8) and overlay's volatile (5.10).
package oci
