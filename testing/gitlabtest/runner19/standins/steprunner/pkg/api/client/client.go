// Package client stands in for the types of step-runner's client. None can be made (package extended), so they only
// carry what the runner puts into them.
package client

import "time"

// ErrorKind is why steps failed.
type ErrorKind int

const (
	ErrorUnknown ErrorKind = iota
	ErrorInternal
	ErrorStepFailure
	ErrorCancelled
	ErrorTimeout
)

// State is where steps are.
type State int

const (
	StateUnspecified State = iota
	StateSuccess
	StateCancelled
)

func (State) String() string { return "steps are not part of this build" }

// Status is how steps ended.
type Status struct {
	Message   string
	State     State
	ErrorKind ErrorKind
}

// Variable is a variable of a job.
type Variable struct {
	Key, Value   string
	File, Masked bool
}

// RunRequest asks to run steps.
type RunRequest struct {
	Id, WorkDir, BuildDir, Steps string
	Env                          map[string]string
	Variables                    []Variable
	Timeout                      *time.Duration
}
