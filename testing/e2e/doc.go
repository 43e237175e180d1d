// Package e2e tests Airlock from the outside, as GitLab Runner, a job's author and an administrator meet it:
// the real driver, host, executor and agent, real containers, and the leak ledger at the end of every test.
package e2e
