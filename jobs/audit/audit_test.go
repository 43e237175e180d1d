package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/airlock-ci/airlock/jobs"
	"github.com/airlock-ci/airlock/jobs/audit"
)

// entries reads a file; each line has to be a whole entry.
func entries(t *testing.T, path string) (ids []int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range bytes.Lines(data) {
		var e jobs.AuditEntry
		require.NoError(t, json.Unmarshal(line, &e), "%s", line)
		ids = append(ids, e.JobID)
	}
	return ids
}

func TestEntriesAreAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit", "decisions.jsonl")
	for i := range int64(3) {
		log, err := audit.Open(audit.Options{Path: path})
		require.NoError(t, err)
		require.NoError(t, log.Record(jobs.AuditEntry{JobID: i, Ref: "a\nb\u2028"}))
		require.NoError(t, log.Close())
	}
	require.Equal(t, []int64{0, 1, 2}, entries(t, path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o007, "not for everybody")
}

func TestOldFilesAreSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	log, err := audit.Open(audit.Options{Path: path, MaxBytes: 1000, Keep: 2})
	require.NoError(t, err)
	var group sync.WaitGroup
	for i := range int64(50) {
		group.Go(func() {
			if err := log.Record(jobs.AuditEntry{JobID: i}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.NoError(t, log.Close())
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, name := range []string{"decisions.jsonl", "decisions.1.jsonl", "decisions.2.jsonl"} {
		name = filepath.Join(filepath.Dir(path), name)
		require.NotEmpty(t, entries(t, name))
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(1000))
	}
}

func TestAHalfLineIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	require.NoError(t, os.WriteFile(path, []byte(`{"job_id":1}`+"\n"+`{"job_id":`), 0o600))
	log, err := audit.Open(audit.Options{Path: path})
	require.NoError(t, err)
	require.NoError(t, log.Record(jobs.AuditEntry{JobID: 2}))
	require.NoError(t, log.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := bytes.Split(data, []byte("\n"))
	require.Len(t, lines, 4)
	require.True(t, json.Valid(lines[2]))
}

func TestWhatCannotBeWrittenIsAnError(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	_, err := audit.Open(audit.Options{Path: filepath.Join(dir, "file", "x.jsonl")})
	require.ErrorContains(t, err, "opening the audit log")

	log, err := audit.Open(audit.Options{Path: filepath.Join(dir, "full", "x.jsonl"), MaxBytes: 1})
	require.NoError(t, err)
	require.NoError(t, log.Record(jobs.AuditEntry{JobID: 1}))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "full")))
	require.Error(t, log.Record(jobs.AuditEntry{JobID: 2}), "neither renamed nor made again")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "full"), 0o700))
	require.NoError(t, log.Record(jobs.AuditEntry{JobID: 3}), "it recovers")
	require.Equal(t, []int64{3}, entries(t, filepath.Join(dir, "full", "x.jsonl")))
	require.NoError(t, log.Close())
}

func ExampleLog() {
	entry, _ := json.Marshal(jobs.AuditEntry{Outcome: "granted", Isolation: "hypervisor", Rule: "default", JobID: 7})
	fmt.Println(string(entry))
	// Output: {"time":"0001-01-01T00:00:00Z","sandbox":"","outcome":"granted","isolation":"hypervisor","rule":"default","policy":"","reason":"","job_id":7}
}
