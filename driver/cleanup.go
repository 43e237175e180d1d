package driver

import (
	"context"

	"github.com/airlock-ci/airlock/executor/api"
	"github.com/airlock-ci/airlock/executor/api/wire"
)

// cleanup has the host destroy the job's sandbox, if there is one. Without a handle there is none: the runner
// also cleans up after a config that failed.
func (d *Driver) cleanup(ctx context.Context) error {
	if d.Env.Handle == "" {
		return nil
	}
	handle, err := d.handle()
	if err != nil {
		return err
	}
	opening := &api.ClientFrame{Kind: &api.ClientFrame_Cleanup{Cleanup: &api.Cleanup{Handle: string(handle)}}}
	result, err := d.call(ctx, Cleanup, opening, nil)
	if err != nil {
		return err
	}
	return wire.ResultError(result)
}
