package reaper_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/reaper"
	"github.com/airlock-ci/airlock/jobs/store"
)

const runnerUID = 998

// tempDir is a temporary directory of a runner that used Airlock before.
type tempDir struct {
	path    string
	journal *store.Memory
	now     time.Time
	dirs    *reaper.RunnerDirs
}

func newTempDir(t *testing.T) *tempDir {
	d := &tempDir{path: t.TempDir(), journal: store.NewMemory(), now: time.Now()}
	d.record(t, "al-earlier", filepath.Join(d.path, "custom-executor0"))
	require.NoError(t, d.journal.End(t.Context(), "al-earlier"))
	d.dirs = reaper.NewRunnerDirs(d.journal, reaper.RunnerDirsOptions{Now: func() time.Time { return d.now }})
	return d
}

func (d *tempDir) record(t *testing.T, id, dir string) {
	require.NoError(t, d.journal.Begin(t.Context(), jobs.Record{ID: id, RunnerDir: dir, RunnerUID: runnerUID}))
}

// mkdir makes a runner's directory with a job response and scripts in it.
func (d *tempDir) mkdir(t *testing.T, name string) string {
	path := filepath.Join(d.path, name)
	require.NoError(t, os.MkdirAll(filepath.Join(path, "script1", "deep"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(path, "response123"), []byte("token"), 0o600))
	require.NoError(t, os.Chown(path, runnerUID, runnerUID))
	return path
}

func (d *tempDir) list(t *testing.T) []string {
	paths, err := d.dirs.List(t.Context())
	require.NoError(t, err)
	return paths
}

func TestRecordedRunnerDirGoesAfterItsGrace(t *testing.T) {
	d := newTempDir(t)
	path := d.mkdir(t, "custom-executor1")
	d.record(t, "al-a", path)
	d.now = d.now.Add(time.Hour)
	require.Equal(t, []string{path}, d.list(t))

	require.ErrorIs(t, d.dirs.Destroy(t.Context(), path), reaper.ErrNotYet, "its runner may be about to clean up")
	d.now = d.now.Add(9 * time.Minute)
	require.ErrorIs(t, d.dirs.Destroy(t.Context(), path), reaper.ErrNotYet)
	d.now = d.now.Add(2 * time.Minute)
	require.NoError(t, d.dirs.Destroy(t.Context(), path))
	require.NoDirExists(t, path)
	require.NoError(t, d.dirs.Destroy(t.Context(), path), "a second time")
	require.Empty(t, d.list(t))
}

// TestRunnerDirOfARunnerThatEnded goes at once: nobody is about to clean up. All else that keeps one keeps this one, too.
func TestRunnerDirOfARunnerThatEnded(t *testing.T) {
	d := newTempDir(t)
	path, other := d.mkdir(t, "custom-executor1"), d.mkdir(t, "custom-executor2")
	require.NoError(t, os.Chown(other, 1234, 1234))
	for id, dir := range map[string]string{"al-a": path, "al-b": other} {
		d.record(t, id, dir)
		require.NoError(t, d.journal.Intend(t.Context(), id, jobs.EffectRunnerDir))
	}
	driver := exec.CommandContext(t.Context(), "sleep", "60")
	driver.Dir = path
	require.NoError(t, driver.Start())
	require.ErrorIs(t, d.dirs.Destroy(t.Context(), path), reaper.ErrNotYet, "its driver lives")
	require.NoError(t, driver.Process.Kill())
	_ = driver.Wait()
	require.NoError(t, d.dirs.Destroy(t.Context(), path))
	require.NoDirExists(t, path)
	require.ErrorContains(t, d.dirs.Destroy(t.Context(), other), "does not belong to user 998")
	require.DirExists(t, other)
}

func TestUnrecordedRunnerDirGoesWhenOld(t *testing.T) {
	d := newTempDir(t)
	path := d.mkdir(t, "custom-executor2")
	require.Empty(t, d.list(t))
	require.ErrorIs(t, d.dirs.Destroy(t.Context(), path), reaper.ErrNotYet)
	d.now = d.now.Add(25 * time.Hour)
	require.Equal(t, []string{path}, d.list(t))
	require.NoError(t, d.dirs.Destroy(t.Context(), path))
	require.NoDirExists(t, path)
}

func TestInhabitedRunnerDirStays(t *testing.T) {
	d := newTempDir(t)
	recorded, unrecorded := d.mkdir(t, "custom-executor1"), d.mkdir(t, "custom-executor2")
	d.record(t, "al-a", recorded)
	require.ErrorIs(t, d.dirs.Destroy(t.Context(), recorded), reaper.ErrNotYet)
	d.now = d.now.Add(48 * time.Hour)
	for _, dir := range []string{recorded, filepath.Join(unrecorded, "script1", "deep")} {
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		cmd.Dir = dir
		require.NoError(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	}
	require.Equal(t, []string{recorded}, d.list(t))
	err := d.dirs.Destroy(t.Context(), recorded)
	require.ErrorIs(t, err, reaper.ErrNotYet)
	require.ErrorContains(t, err, "stands in")
	require.ErrorIs(t, d.dirs.Destroy(t.Context(), unrecorded), reaper.ErrNotYet)
	require.DirExists(t, recorded)
	require.DirExists(t, unrecorded)
}

// TestForeignThingsStay offers what somebody could plant, or an administrator could own, for removal.
func TestForeignThingsStay(t *testing.T) {
	d := newTempDir(t)
	elsewhere := t.TempDir()
	treasure := filepath.Join(elsewhere, "custom-executor-treasure")
	require.NoError(t, os.MkdirAll(filepath.Join(treasure, "gold"), 0o700))

	link := filepath.Join(d.path, "custom-executor-link")
	require.NoError(t, os.Symlink(treasure, link))
	require.NoError(t, os.Lchown(link, runnerUID, runnerUID))
	file := filepath.Join(d.path, "custom-executor-file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Chown(file, runnerUID, runnerUID))
	otherUser := d.mkdir(t, "custom-executor-other")
	require.NoError(t, os.Chown(otherUser, 1234, 1234))
	otherName := d.mkdir(t, "precious")

	destroyAll := func() {
		d.now = d.now.Add(48 * time.Hour)
		for _, path := range []string{link, file, otherUser, otherName} {
			require.Error(t, d.dirs.Destroy(t.Context(), path), path)
			_, err := os.Lstat(path)
			require.NoError(t, err, path)
		}
		require.DirExists(t, filepath.Join(treasure, "gold"))
	}
	require.Empty(t, func() []string { d.now = d.now.Add(48 * time.Hour); return d.list(t) }())
	destroyAll()
	require.ErrorContains(t, d.dirs.Destroy(t.Context(), treasure), "no directory of a runner that used Airlock")
	for i, path := range []string{link, file, otherUser, otherName} {
		d.record(t, "al-"+string(rune('a'+i)), path)
		require.NoError(t, func() error { _, err := d.dirs.List(t.Context()); return err }())
	}
	destroyAll()
}

func TestLinksInARunnerDirAreNotFollowed(t *testing.T) {
	d := newTempDir(t)
	treasure := t.TempDir()
	gold := filepath.Join(treasure, "gold")
	require.NoError(t, os.WriteFile(gold, nil, 0o600))
	path := d.mkdir(t, "custom-executor1")
	require.NoError(t, os.Symlink(treasure, filepath.Join(path, "escape")))
	require.NoError(t, os.Symlink(treasure, filepath.Join(path, "script1", "escape")))
	d.now = d.now.Add(48 * time.Hour)
	require.NoError(t, d.dirs.Destroy(t.Context(), path))
	require.NoDirExists(t, path)
	require.FileExists(t, gold)
}

// TestReaperWithRunnerDirs is the whole: a dead job's record lasts until its runner's directory is gone.
func TestReaperWithRunnerDirs(t *testing.T) {
	d := newTempDir(t)
	path := d.mkdir(t, "custom-executor1")
	d.record(t, "al-a", path)
	live := map[string]bool{"al-a": true}
	r, err := reaper.New(reaper.Options{
		Journal: d.journal, Resources: []reaper.Resource{d.dirs}, Logger: zerolog.Nop(),
		Live: func() map[string]bool { return live },
	})
	require.NoError(t, err)
	pass := func() []reaper.Leftover {
		left, err := r.Pass(t.Context(), false)
		require.NoError(t, err)
		return left
	}
	d.now = d.now.Add(48 * time.Hour)
	require.Empty(t, pass())
	delete(live, "al-a")
	require.ErrorIs(t, pass()[0].Err, reaper.ErrNotYet)
	d.now = d.now.Add(time.Hour)
	left := pass()
	require.Len(t, left, 2)
	require.True(t, left[0].Removed && left[1].Removed)
	require.NoDirExists(t, path)
	require.Empty(t, pass())
}
