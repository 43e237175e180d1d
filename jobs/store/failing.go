package store

import (
	"context"

	"github.com/airlock-ci/airlock/jobs"
)

// Failing is a journal of which every call fails.
type Failing struct{ err error }

// NewFailing returns a journal that fails with err.
func NewFailing(err error) Failing { return Failing{err: err} }

// Begin fails.
func (f Failing) Begin(context.Context, jobs.Record) error { return f.err }

// Intend fails.
func (f Failing) Intend(context.Context, string, jobs.Effect) error { return f.err }

// End fails.
func (f Failing) End(context.Context, string) error { return f.err }

// Records fails.
func (f Failing) Records(context.Context) ([]jobs.Record, error) { return nil, f.err }

// TempDirs fails.
func (f Failing) TempDirs(context.Context) ([]jobs.RunnerTempDir, error) { return nil, f.err }
