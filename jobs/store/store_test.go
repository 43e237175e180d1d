package store_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/store"
	"github.com/airlock-ci/airlock/testing/conformance"
)

func TestConformance(t *testing.T) {
	t.Run("bbolt", func(t *testing.T) {
		dir, n := t.TempDir(), 0
		conformance.TestJournal(t, func(t testing.TB) jobs.Journal {
			n++
			return open(t, filepath.Join(dir, fmt.Sprintf("%d.db", n)), store.Options{})
		})
	})
	t.Run("memory", func(t *testing.T) {
		conformance.TestJournal(t, func(testing.TB) jobs.Journal { return store.NewMemory() })
	})
}

func open(t testing.TB, path string, o store.Options) *store.Journal {
	t.Helper()
	j, err := store.Open(path, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func record(id string) jobs.Record {
	return jobs.Record{ID: id, JobID: 7, Handle: "hash", Executor: "e1", CreatedUnix: 1}
}

func TestFailing(t *testing.T) {
	cause := errors.New("disk full")
	j := store.NewFailing(cause)
	require.ErrorIs(t, j.Begin(t.Context(), record("al-a")), cause)
	require.ErrorIs(t, j.Intend(t.Context(), "al-a", jobs.EffectLease), cause)
	require.ErrorIs(t, j.End(t.Context(), "al-a"), cause)
	_, err := j.Records(t.Context())
	require.ErrorIs(t, err, cause)
	_, err = j.TempDirs(t.Context())
	require.ErrorIs(t, err, cause)
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	j := open(t, path, store.Options{BootID: "boot-1"})
	require.NoError(t, j.Begin(t.Context(), record("al-a")))
	require.NoError(t, j.Intend(t.Context(), "al-a", jobs.EffectLease))
	require.NoError(t, j.Close())
	_, err := j.Records(t.Context())
	require.Error(t, err, "a closed journal")

	j = open(t, path, store.Options{BootID: "boot-1"})
	require.NoError(t, j.Begin(t.Context(), record("al-b")))
	records, err := j.Records(t.Context())
	require.NoError(t, err)
	require.Equal(t, []jobs.Effect{jobs.EffectLease}, records[0].Effects)
	require.False(t, records[0].EarlierBoot)
	require.NoError(t, j.Close())

	j = open(t, path, store.Options{BootID: "boot-2"})
	require.NoError(t, j.Begin(t.Context(), record("al-c")))
	records, err = j.Records(t.Context())
	require.NoError(t, err)
	require.Len(t, records, 3)
	for i, earlier := range []bool{true, true, false} {
		require.Equal(t, earlier, records[i].EarlierBoot, records[i].ID)
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestTempDirsAreRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	disk := open(t, path, store.Options{})
	for name, j := range map[string]interface {
		jobs.Journal
		TempDirs(context.Context) ([]jobs.RunnerTempDir, error)
	}{"bbolt": disk, "memory": store.NewMemory()} {
		for i, dir := range []string{"/tmp/custom-executor1", "/tmp/custom-executor2", "/var/tmp/custom-executor3", ""} {
			rec := record(fmt.Sprintf("al-%d", i))
			rec.RunnerDir, rec.RunnerUID = dir, 998
			require.NoError(t, j.Begin(t.Context(), rec), name)
			require.NoError(t, j.End(t.Context(), rec.ID), name)
		}
		dirs, err := j.TempDirs(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []jobs.RunnerTempDir{{Path: "/tmp", UID: 998}, {Path: "/var/tmp", UID: 998}}, dirs, name)
	}
}

func TestOneProcessOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	open(t, path, store.Options{})
	_, err := store.Open(path, store.Options{LockTimeout: 100 * time.Millisecond})
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "in use by another process")
	require.FileExists(t, path, "a busy journal is not a damaged one")
}

func TestUnusablePathIsNotDamage(t *testing.T) {
	dir := t.TempDir()
	_, err := store.Open(filepath.Join(dir, "missing", "journal.db"), store.Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = store.Open(dir, store.Options{})
	require.ErrorContains(t, err, "is a directory")
}

// TestDamage cuts, overwrites and replaces a journal: whatever happened to it, the executor starts, and the old
// file is kept for who wants to look.
func TestDamage(t *testing.T) {
	var page = os.Getpagesize()
	cases := map[string]func(b []byte) []byte{
		"no database":     func([]byte) []byte { return []byte(strings.Repeat("no database\n", 4096)) },
		"a few bytes":     func(b []byte) []byte { return b[:100] },
		"cut in half":     func(b []byte) []byte { return b[:2*page] },
		"cut to 3 pages":  func(b []byte) []byte { return b[:3*page] },
		"zeroed":          func(b []byte) []byte { clear(b); return b },
		"pages zeroed":    func(b []byte) []byte { clear(b[2*page:]); return b },
		"pages scrambled": func(b []byte) []byte { return scramble(b, 2*page) },
		"both metas torn": func(b []byte) []byte { clear(b[40:page]); clear(b[page+40 : 2*page]); return b },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.db")
			j := open(t, path, store.Options{})
			for i := range 200 {
				require.NoError(t, j.Begin(t.Context(), record(fmt.Sprintf("al-%03d", i))))
			}
			require.NoError(t, j.Close())
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			content = damage(content)
			require.NoError(t, os.WriteFile(path, content, 0o600))

			var log strings.Builder
			j = open(t, path, store.Options{Logger: zerolog.New(&log)})
			records, err := j.Records(t.Context())
			require.NoError(t, err)
			require.Empty(t, records)
			require.NoError(t, j.Begin(t.Context(), record("al-new")))

			aside, err := filepath.Glob(path + ".corrupt-*")
			require.NoError(t, err)
			require.Len(t, aside, 1)
			kept, err := os.ReadFile(aside[0])
			require.NoError(t, err)
			require.Len(t, kept, len(content))
			require.Contains(t, log.String(), aside[0])
		})
	}
}

func scramble(b []byte, from int) []byte {
	for i := from; i < len(b); i++ {
		b[i] = byte(i * 7)
	}
	return b
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	require.NoError(t, open(t, path, store.Options{}).Close())
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("9"))
	}))
	require.NoError(t, db.Close())
	_, err = store.Open(path, store.Options{})
	require.ErrorContains(t, err, "newer Airlock")
	require.FileExists(t, path)
}

// TestReleasedFormats opens the file of every released format. Their content is that of releasedRecords.
func TestReleasedFormats(t *testing.T) {
	files, err := filepath.Glob("testdata/v*.db")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			j := open(t, copyOf(t, file), store.Options{BootID: "another"})
			records, err := j.Records(t.Context())
			require.NoError(t, err)
			want := releasedRecords()
			for i := range want {
				want[i].EarlierBoot = true
			}
			require.Equal(t, want, records)
			dirs, err := j.TempDirs(t.Context())
			require.NoError(t, err)
			require.Equal(t, []jobs.RunnerTempDir{{Path: "/tmp", UID: 998}}, dirs)
			require.NoError(t, j.Intend(t.Context(), "al-1f2e3d4c5b6a", jobs.EffectContainer))
			require.NoError(t, j.End(t.Context(), "al-1f2e3d4c5b6a"))
		})
	}
}

func releasedRecords() []jobs.Record {
	return []jobs.Record{
		{
			ID: "al-f00df00df00d", JobID: 1, Handle: "3f786850e387550fdab836ed7e6dc881de23001b", Level: isolation.ProcessLevel,
			Executor: "e-1", RunnerDir: "/tmp/custom-executor1", RunnerUID: 998, CreatedUnix: 1_795_000_000,
			Effects: []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer},
		},
		{ID: "al-1f2e3d4c5b6a", Handle: "", Level: isolation.HypervisorLevel, Executor: "e-1", CreatedUnix: 1_795_000_001},
	}
}

func copyOf(t *testing.T, file string) string {
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "journal.db")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// childVariable makes the test binary write a journal until it is killed.
const childVariable = "AIRLOCK_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		if err := writeForEver(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver begins sandbox after sandbox, gives each its effects and ends every third, and prints the
// records as they are after each call.
func writeForEver(path string) error {
	ctx := context.Background()
	j, err := store.Open(path, store.Options{})
	if err != nil {
		return err
	}
	printState := func(err error) error {
		if err != nil {
			return err
		}
		records, err := j.Records(ctx)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(records)
	}
	for n := 0; ; n++ {
		id := fmt.Sprintf("al-%d", n)
		if err := printState(j.Begin(ctx, record(id))); err != nil {
			return err
		}
		for _, effect := range []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer} {
			if err := printState(j.Intend(ctx, id, effect)); err != nil {
				return err
			}
		}
		if n%8 != 0 {
			if err := printState(j.End(ctx, id)); err != nil {
				return err
			}
		}
	}
}

// TestKilledBetweenRecords kills a writer at an arbitrary moment: what it was told is recorded is there, the
// file is sound, and the call it died in happened wholly or not at all.
func TestKilledBetweenRecords(t *testing.T) {
	for round := range 12 {
		path := filepath.Join(t.TempDir(), "journal.db")
		last := killWriter(t, path, time.Duration(5+round*4)*time.Millisecond)
		var told []jobs.Record
		require.NoError(t, json.Unmarshal([]byte(last), &told))

		j := open(t, path, store.Options{})
		after, err := j.Records(t.Context())
		require.NoError(t, err)
		aside, _ := filepath.Glob(path + ".corrupt-*")
		require.Empty(t, aside, "a kill must not damage the file")
		requireAtMostOneCallApart(t, told, after)
	}
}

// killWriter runs a writer, kills it after d, and returns the last whole line that it printed.
func killWriter(t *testing.T, path string, d time.Duration) string {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	last, err := lines.ReadString('\n')
	require.NoError(t, err)
	time.AfterFunc(d, func() { _ = cmd.Process.Kill() })
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		last = line
	}
	require.Error(t, cmd.Wait(), "the writer ends by the kill only")
	return last
}

func requireAtMostOneCallApart(t *testing.T, told, after []jobs.Record) {
	t.Helper()
	effects := func(records []jobs.Record) (n int) {
		for _, rec := range records {
			n += len(rec.Effects)
		}
		return n
	}
	switch len(after) - len(told) {
	case 0: // nothing, or one more effect of the newest
		require.LessOrEqual(t, effects(after)-effects(told), 1)
		require.GreaterOrEqual(t, effects(after), effects(told))
	case 1: // one more Begin
		require.Empty(t, after[len(after)-1].Effects)
		require.Equal(t, told, after[:len(told)])
	case -1: // one more End
		require.Equal(t, told[:len(after)], after)
	default:
		t.Fatalf("the writer was told %d records, the journal has %d", len(told), len(after))
	}
}

// BenchmarkRecord is the cost of one journaled step with 64 sandboxes living; the budget is 100 µs.
func BenchmarkRecord(b *testing.B) {
	j := open(b, filepath.Join(b.TempDir(), "journal.db"), store.Options{})
	for i := range 64 {
		require.NoError(b, j.Begin(b.Context(), record(fmt.Sprintf("al-old%d", i))))
	}
	effects := []jobs.Effect{jobs.EffectLease, jobs.EffectScratch, jobs.EffectNetwork, jobs.EffectContainer}
	for n := 0; b.Loop(); n++ {
		id, step := fmt.Sprintf("al-%d", n/6), n%6
		var err error
		switch step {
		case 0:
			err = j.Begin(b.Context(), record(id))
		case 5:
			err = j.End(b.Context(), id)
		default:
			err = j.Intend(b.Context(), id, effects[step-1])
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
