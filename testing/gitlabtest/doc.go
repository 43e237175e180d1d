// Package gitlabtest plays the two sides that Airlock is tested between: GitLab (Coordinator) and GitLab
// Runner, the latter twice. RealRunner is a real process of GitLab Runner 19.4.0, built from the released sources with the
// custom executor alone (testing/gitlabtest/runner19). Caller plays that runner where a test has to decide what happens
// between two calls of the driver, or when: it calls a driver as runner 19.4 does, from a recording of one
// (testdata/recorded-19.4), with its environment, arguments, directories, scripts, signals, exit codes, order of stages
// and retries.
//
// It knows nothing of Airlock but the command lines of a driver, so that it tests any driver alike. Only
// tests, benchmarks and the demonstration import it.
package gitlabtest
