// Package gitlabtest plays the two sides that Airlock is tested between: GitLab (Coordinator) and GitLab
// Runner, the latter twice. Caller calls a driver as runner 19.4 does, from a recording of one
// (testdata/recorded-19.4): environment, arguments, directories, scripts, signals, exit codes, order of
// stages, retries. RealRunner is a real gitlab-runner process of version 12.8, the newest that can be built from the
// module proxy; testing/gitlabtest/shim gives its calls what 12.8 does not know yet.
//
// It knows nothing of Airlock but the command lines of a driver, so that it tests any driver alike. Only
// tests, benchmarks and the demonstration import it.
package gitlabtest
