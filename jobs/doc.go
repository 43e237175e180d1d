// Package jobs is the story of a job, one file per transition: prepare.go makes the sandbox, run.go executes
// a stage, cancel.go ends one early, cleanup.go throws everything away, recover.go does so for a process that
// died. ports.go holds the small interfaces it consumes.
//
// It owns the order of events and the rule that an intent is journaled before every side effect. It knows no
// runtime, registry or network by name, and never lets a weaker level stand in for a stronger one. Its caller
// is package executor, through the backend in cmd/airlock-executor.
package jobs
