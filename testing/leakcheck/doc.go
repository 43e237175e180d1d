// Package leakcheck finds leaks: it writes down what there is on a host before a test and compares it with what
// there is afterwards: mounts, network links, nftables, cgroups, processes, namespaces, loop devices, files.
// The end-to-end tests and the demo call it; it changes nothing itself. It needs root to see everything.
//
// Mounts, links, nftables, cgroups, loop devices and files are compared both ways, because a missing one is
// damage as much as a new one is a leak. Processes and namespaces come and go on every machine; only new ones
// count, of the processes that Options.Process chooses.
//
// The whole host is looked at, and other programs change it, too. So a test says by Options.Marks what is its
// own: names and directories that everything it starts carries. All else is shown and not judged.
//
// Linux only.
package leakcheck
