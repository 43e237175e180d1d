package reaper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows"

	"github.com/airlock-ci/airlock/jobs"
)

// runnerPatience is how long a runner whose job is over may take to call cleanup_exec in its directory, and to remove it.
const runnerPatience = 10 * time.Minute

// RunnerDirs is the Resource for runners' temporary directories. They hold the job response with its token, and a runner
// that is killed leaves them behind for ever.
//
// Only recorded ones are removed, and of those only a real directory of that name that nobody stands in. A recorded
// path of any other name is left alone: it is chosen by a caller that may drive jobs.
type RunnerDirs struct {
	patience time.Duration
	seen     sightings
}

// NewRunnerDirs returns the resource.
func NewRunnerDirs() *RunnerDirs {
	return &RunnerDirs{patience: runnerPatience}
}

// Kind is jobs.EffectRunnerDir.
func (*RunnerDirs) Kind() string { return string(jobs.EffectRunnerDir) }

// List finds none: what no record names is not touched.
func (*RunnerDirs) List(context.Context) ([]string, error) { return nil, nil }

// Destroy removes a dead runner's directory.
func (r *RunnerDirs) Destroy(_ context.Context, path string) error {
	if !filepath.IsAbs(path) || !strings.HasPrefix(filepath.Base(path), runnerDirPrefix) {
		return nil
	}
	gone := path + ".gone"
	if info, err := os.Lstat(gone); err == nil && info.Mode()&fs.ModeType == fs.ModeDir {
		if err := os.RemoveAll(gone); err != nil { // the last attempt ended half-way
			return fmt.Errorf("removing a runner's directory: %w", err)
		}
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		r.seen.forget(path)
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at a runner's directory: %w", err)
	}
	if info.Mode()&fs.ModeType != fs.ModeDir { // a link or a junction, which leads elsewhere
		return nil
	}
	if time.Since(r.seen.of(path, time.Now())) < r.patience {
		return fmt.Errorf("%w: its runner may still clean up in %s", ErrNotYet, path)
	}
	// Windows does not move a directory that somebody stands in, whereas removing would begin with what is in it.
	if err := os.Rename(path, gone); errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return fmt.Errorf("%w: %w", ErrNotYet, err)
	} else if err != nil {
		return fmt.Errorf("moving a runner's directory: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("removing a runner's directory: %w", err)
	}
	r.seen.forget(path)
	return nil
}
