// Package ledger finds leaks: it writes down what there is on a host before a test and compares it with what
// there is afterwards: mounts, network links, nftables, cgroups, processes, namespaces, loop devices, files.
// The end-to-end tests and the demo call it; it changes nothing itself. It needs root to see everything.
//
// Mounts, links, nftables, cgroups, loop devices and files are compared both ways, because a missing one is
// damage as much as a new one is a leak. They are those of the whole host: tests that keep a ledger must not
// run beside others that change the host. Processes and namespaces come and go on every machine; only new
// ones count, of the processes that Options.Process chooses.
//
// Linux only.
package ledger
