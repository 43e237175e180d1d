package gitlab

import (
	"errors"
	"strconv"

	"gitlab.com/gitlab-org/gitlab-runner/executors/custom/api"

	"github.com/airlock-ci/airlock/internal/fault"
)

// Environment is what GitLab Runner tells a driver through unprefixed environment variables. Everything that
// a job's variables set arrives as CUSTOM_ENV_..., so none of these can be forged by an author.
type Environment struct {
	// JobResponseFile is the path of the job response; empty before GitLab Runner 14.1.
	JobResponseFile string
	// ExitCodeFile is where a failed script's status goes; empty before GitLab Runner 17.9.
	ExitCodeFile string
	// BuildFailure and SystemFailure are the exit codes that mean the author's and the system's failure.
	BuildFailure, SystemFailure int
	// Handle is HandleVariable's value as it came; ParseHandle checks it. Empty when config_exec failed.
	Handle string
}

// ReadEnvironment reads a driver's environment through getenv, which is os.Getenv's like.
func ReadEnvironment(getenv func(string) string) Environment {
	return Environment{
		JobResponseFile: getenv(api.JobResponseFileVariable),
		ExitCodeFile:    getenv(api.BuildCodeFileVariable),
		BuildFailure:    exitCode(getenv(api.BuildFailureExitCodeVariable), fault.ExitBuildFailure),
		SystemFailure:   exitCode(getenv(api.SystemFailureExitCodeVariable), fault.ExitSystemFailure),
		Handle:          getenv(HandleVariable),
	}
}

// exitCode returns the exit code that value holds, or the one that runners have always used: a value that is
// no failing exit code must not turn a failure into a success.
func exitCode(value string, usual int) int {
	code, err := strconv.Atoi(value)
	if err != nil || code < 1 || code > 255 {
		return usual
	}
	return code
}

// CheckJobResponseFile returns an error of class admin when the runner passes no job response.
func (e Environment) CheckJobResponseFile() error {
	if e.JobResponseFile != "" {
		return nil
	}
	return &fault.Error{
		Class:  fault.Admin,
		Err:    errors.New(api.JobResponseFileVariable + " is not set: Airlock needs GitLab Runner 14.1 or newer"),
		Remedy: "update GitLab Runner, and call airlock-driver only as its custom executor's driver",
	}
}
