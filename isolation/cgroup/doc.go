// Package cgroup makes, finds, reads, empties and removes the cgroups of sandboxes, on hosts with either version. A
// sandbox's are named by its id, so that all of that works by id alone, in a process that knows nothing else of it.
//
// It never signals a bare process id. The Linux runtimes are its callers.
package cgroup
