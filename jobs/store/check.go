package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/airlock-ci/airlock/gitlab"
	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
)

// check refuses a record that a successor could not act on, or that holds a secret.
func check(ctx context.Context, rec jobs.Record) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !isolation.ValidID(rec.ID) {
		return fmt.Errorf("journal: %q is no sandbox id", rec.ID)
	}
	if _, err := gitlab.ParseHandle(rec.Handle); err == nil {
		return errors.New("journal: the record of sandbox " + rec.ID + " holds the job's handle, a secret, instead of its hash")
	}
	if dir := rec.RunnerDir; dir != "" && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir) {
		return fmt.Errorf("journal: the runner's directory %q of sandbox %s is not a clean absolute path", dir, rec.ID)
	}
	return nil
}

func unknown(id string) error {
	return fmt.Errorf("journal: there is no sandbox %q to record an effect for", id)
}
