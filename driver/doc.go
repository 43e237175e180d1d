// Package driver is what airlock-driver does with one call of GitLab Runner's custom executor: config,
// prepare, run or cleanup. config answers by itself; the others open one stream to the host, copy the output
// that comes back and turn the result into the exit code that the runner understands.
//
// A driver starts about twelve times a job, so this package imports the standard library, ttrpc and Airlock's
// leaf packages only; cmd/airlock-driver tests that. It starts no process, keeps no state but the note
// of an outage, and may be killed at any moment: the host notices the broken connection. Its caller is cmd/airlock-driver.
package driver
