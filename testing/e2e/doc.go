// Package e2e tests Airlock from the outside, as GitLab Runner, a job's author and an administrator meet it:
// the real driver, host, executor and agent, real containers, and the leak check at the end of every test.
//
// Jobs come from one of two callers (package gitlabtest). The kinds of jobs that users have go through a real GitLab Runner
// (jobs_linux_test.go), and so does what happens when that runner or the service ends (runner_linux_test.go). The caller
// that plays the runner is for what needs to know or to choose the moment between two calls: kills at each step, cleanup
// beside a living stage, output to the byte, the number of attempts, forged job responses.
package e2e
