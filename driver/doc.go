// Package driver is what airlock-driver does with one call of GitLab Runner's custom executor: config,
// prepare, run or cleanup. config answers by itself; the others make one call of the executor, copy the output
// that comes back and turn the result into the exit code that the runner understands.
//
// A driver starts about twelve times a job, so this package imports the standard library, yamux and Airlock's
// leaf packages only; cmd/airlock-driver tests that. It starts no process, keeps no state but the note
// of an outage, and may be killed at any moment: the executor notices the end of the connection. Its caller is
// cmd/airlock-driver.
package driver
