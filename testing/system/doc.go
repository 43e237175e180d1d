// Package system starts a whole Airlock, real binaries and all, in a temporary prefix of its own: for the
// end-to-end tests, the demo and the benchmarks. Two systems on one host share nothing but the kernel. It runs
// on Linux only.
package system
