package reaper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/airlock-ci/airlock/jobs"
)

// RunnerDirs is the Resource for runners' temporary directories. They hold the job response with its token,
// and a runner that is killed leaves them behind for ever.
//
// The runner makes and removes them, so Airlock only removes one when it is sure: it is a real directory of
// that name and of the recorded user, no process stands in it, and it has not changed for a while.
type RunnerDirs struct {
	journal RunnerJournal
	o       RunnerDirsOptions

	seen sightings
}

// RunnerJournal knows the runners' directories.
type RunnerJournal interface {
	Records(ctx context.Context) ([]jobs.Record, error)
	TempDirs(ctx context.Context) ([]jobs.RunnerTempDir, error)
}

// RunnerDirsOptions say how long a directory is left alone.
type RunnerDirsOptions struct {
	// Grace is for directories of recorded jobs that no longer live, from the last change of the directory and
	// from the first attempt to remove it; 0 means 10 min. Those of runners that were seen to end need none.
	Grace time.Duration
	// Age is for directories beside those, that no record names, from their last change; 0 means 24 h. Such a
	// directory may belong to a job that Airlock has nothing to do with.
	Age time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// NewRunnerDirs returns the Resource.
func NewRunnerDirs(journal RunnerJournal, o RunnerDirsOptions) *RunnerDirs {
	if o.Grace == 0 {
		o.Grace = 10 * time.Minute
	}
	if o.Age == 0 {
		o.Age = 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &RunnerDirs{journal: journal, o: o}
}

// Kind implements Resource.
func (d *RunnerDirs) Kind() string { return string(jobs.EffectRunnerDir) }

// List implements Resource: the directories of recorded jobs, and those beside them that are ripe for removal.
func (d *RunnerDirs) List(ctx context.Context) ([]string, error) {
	records, err := d.journal.Records(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	var paths []string
	for _, rec := range records {
		if _, err := os.Lstat(rec.RunnerDir); rec.RunnerDir != "" && err == nil {
			paths = append(paths, rec.RunnerDir)
		}
	}
	tempDirs, err := d.journal.TempDirs(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	for _, parent := range tempDirs {
		stale, err := d.stale(parent, paths)
		if err != nil {
			return nil, err
		}
		paths = append(paths, stale...)
	}
	return paths, nil
}

// stale lists the ripe directories in one temporary directory, without the recorded ones.
func (d *RunnerDirs) stale(parent jobs.RunnerTempDir, recorded []string) ([]string, error) {
	entries, err := os.ReadDir(parent.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(parent.Path, e.Name())
		if !strings.HasPrefix(e.Name(), runnerDirPrefix) || slices.Contains(recorded, path) {
			continue
		}
		info, err := e.Info()
		if err == nil && d.refusal(path, info, parent.UID, info.ModTime().Add(d.o.Age)) == nil {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// Destroy implements Resource.
func (d *RunnerDirs) Destroy(ctx context.Context, path string) error {
	claim, err := d.claimOf(ctx, path)
	if err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	info, err := parent.Lstat(filepath.Base(path))
	if errors.Is(err, fs.ErrNotExist) {
		d.seen.forget(path)
		return nil
	}
	if err != nil {
		return err
	}
	ripe := info.ModTime().Add(d.o.Age)
	switch {
	case claim.abandoned:
		ripe = time.Time{}
	case claim.recorded:
		ripe = latest(info.ModTime(), d.seen.of(path, d.o.Now())).Add(d.o.Grace)
	}
	if err := d.refusal(path, info, claim.uid, ripe); err != nil {
		return err
	}
	if err := removeDirectory(parent, filepath.Base(path), info); err != nil {
		return fmt.Errorf("removing the runner's directory %s: %w", path, err)
	}
	d.seen.forget(path)
	return nil
}

// claim says how a directory is known, and so which user may own it.
type claim struct {
	uid       uint32
	recorded  bool
	abandoned bool // the executor saw its runner end
}

func (d *RunnerDirs) claimOf(ctx context.Context, path string) (claim, error) {
	records, err := d.journal.Records(ctx)
	if err != nil {
		return claim{}, fmt.Errorf("reading the journal: %w", err)
	}
	for _, rec := range records {
		if rec.RunnerDir == path {
			return claim{uid: rec.RunnerUID, recorded: true, abandoned: slices.Contains(rec.Effects, jobs.EffectRunnerDir)}, nil
		}
	}
	tempDirs, err := d.journal.TempDirs(ctx)
	if err != nil {
		return claim{}, fmt.Errorf("reading the journal: %w", err)
	}
	info, err := os.Lstat(path)
	for _, dir := range tempDirs {
		if dir.Path == filepath.Dir(path) && (err != nil || ownedBy(info, dir.UID)) {
			return claim{uid: dir.UID}, nil
		}
	}
	return claim{}, fmt.Errorf("%s is no directory of a runner that used Airlock", path)
}

// refusal says why a directory must not be removed; nil when it may.
func (d *RunnerDirs) refusal(path string, info fs.FileInfo, uid uint32, ripe time.Time) error {
	switch {
	case !strings.HasPrefix(filepath.Base(path), runnerDirPrefix):
		return fmt.Errorf("%s is not named %s*: a runner did not make it", path, runnerDirPrefix)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case !ownedBy(info, uid):
		return fmt.Errorf("%s does not belong to user %d, as its runner's did", path, uid)
	case d.o.Now().Before(ripe):
		return fmt.Errorf("%w: %s may be in its runner's use until %s", ErrNotYet, path, ripe.UTC().Format(time.RFC3339))
	}
	pid, err := inhabitant(path, info)
	if err != nil {
		return err
	}
	if pid != "" {
		return fmt.Errorf("%w: process %s stands in %s", ErrNotYet, pid, path)
	}
	return nil
}

func ownedBy(info fs.FileInfo, uid uint32) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == uid
}

// inhabitant returns the id of a process whose working directory is dir or below it. Paths may look different
// from other mount namespaces, so the directory itself is compared as a file, too.
func inhabitant(path string, dir fs.FileInfo) (pid string, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return "", err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue // it ended meanwhile, or is a kernel thread
		}
		info, err := os.Stat(link)
		if target == path || strings.HasPrefix(target, path+"/") || err == nil && os.SameFile(info, dir) {
			return filepath.Base(filepath.Dir(link)), nil
		}
	}
	return "", nil
}

// removeDirectory empties the directory through a handle to the very one that was examined, so that nobody can
// put another in its place, and then removes the name. No path in it is followed out of it.
func removeDirectory(parent *os.Root, name string, examined fs.FileInfo) error {
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	opened, err := dir.Stat(".")
	if err != nil {
		return err
	}
	if !os.SameFile(opened, examined) {
		return errors.New("it was replaced meanwhile")
	}
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := dir.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return parent.Remove(name)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
