package driver

import (
	"context"

	"github.com/airlock-ci/airlock/api"
)

// cleanup has the executor destroy the job's sandbox, if there is one. Without a handle there is none: the runner
// also cleans up after a config that failed.
func (d *Driver) cleanup(ctx context.Context) error {
	if d.Env.Handle == "" {
		return nil
	}
	handle, err := d.handle()
	if err != nil {
		return err
	}
	_, err = d.call(ctx, api.OpCleanup, api.Cleanup{Handle: string(handle)}, nil)
	return err
}
