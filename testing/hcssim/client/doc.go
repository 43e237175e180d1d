// Package client holds the tests that run on the simulated Windows: they call the real hcsshim, through its public API
// alone. The tests of package hcssim build them, run them under Wine, and judge what the service saw. They say nothing
// when they are run elsewhere, because no other system can build them.
package client
