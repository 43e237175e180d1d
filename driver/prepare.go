package driver

import (
	"context"
	"errors"

	"github.com/airlock-ci/airlock/api"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

// prepare has the executor make the job's sandbox.
func (d *Driver) prepare(ctx context.Context) error {
	response, err := d.readJobResponse()
	if err != nil {
		return err
	}
	handle, err := d.handle()
	if err != nil {
		return err
	}
	_, err = d.call(ctx, api.OpPrepare, api.Prepare{
		Handle: string(handle), RunnerClass: d.RunnerClass, RunnerDir: d.Dir, RunnerPID: d.Parent,
	}, response)
	return err
}

// handle returns the handle that config gave to the runner.
func (d *Driver) handle() (gitlab.Handle, error) {
	if d.Env.Handle == "" {
		return "", &fault.Error{
			Class:  fault.Admin,
			Err:    errors.New(gitlab.HandleVariable + " is not set: the runner did not call airlock-driver config for this job"),
			Remedy: `set config_exec and config_args = ["config"] in the section [runners.custom] of the runner's config.toml`,
		}
	}
	handle, err := gitlab.ParseHandle(d.Env.Handle)
	if err != nil {
		return "", fault.Systemf("%s: %w", gitlab.HandleVariable, err)
	}
	return handle, nil
}
