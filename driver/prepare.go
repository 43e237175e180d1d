package driver

import (
	"context"
	"errors"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/wire"
	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/internal/fault"
)

// prepare has the host make the job's sandbox.
func (d *Driver) prepare(ctx context.Context) error {
	response, err := d.readJobResponse()
	if err != nil {
		return err
	}
	handle, err := d.handle()
	if err != nil {
		return err
	}
	opening := &api.ClientFrame{Kind: &api.ClientFrame_Prepare{Prepare: &api.Prepare{
		Handle:      string(handle),
		RunnerClass: d.RunnerClass,
		RunnerDir:   d.Dir,
		RunnerPid:   int64(d.Parent),
	}}}
	result, err := d.call(ctx, Prepare, opening, response)
	if err != nil {
		return err
	}
	return wire.ResultError(result)
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
