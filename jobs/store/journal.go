package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/airlock-ci/airlock/jobs"
)

// Options are what a Journal needs beside its path.
type Options struct {
	// Logger gets an event when a corrupt file was replaced.
	Logger zerolog.Logger
	// LockTimeout is how long to wait for another process to let go of the file; 0 means 2 s.
	LockTimeout time.Duration
	// BootID tells one boot of the host from another; empty asks the kernel.
	BootID string
}

// Journal is the journal in a bbolt file. It is safe for concurrent use.
type Journal struct {
	db   *bolt.DB
	boot string
}

var (
	_ jobs.Journal = (*Journal)(nil)
	_ jobs.Journal = (*Memory)(nil)
	_ jobs.Journal = Failing{}
)

const (
	metaBucket      = "meta"
	sandboxesBucket = "sandboxes"
	tempDirsBucket  = "temp-dirs"
)

// entry is the stored form of a record.
type entry struct {
	// Sequence numbers the records in the order of Begin: clocks may step back.
	Sequence uint64      `json:"sequence"`
	Boot     string      `json:"boot,omitempty"`
	Record   jobs.Record `json:"record"`
}

// Open opens the journal, made when there is none; its directory must exist. A file that is damaged is moved
// aside as <path>.corrupt-<time> and replaced by an empty one. It fails when another process uses the file, or
// when a newer version of Airlock wrote it.
func Open(path string, o Options) (*Journal, error) {
	if o.LockTimeout == 0 {
		o.LockTimeout = 2 * time.Second
	}
	if o.BootID == "" {
		o.BootID = bootID()
	}
	db, err := openSound(path, o)
	var damage *damageError
	if errors.As(err, &damage) {
		aside, moveErr := moveAside(path, time.Now())
		if moveErr != nil {
			return nil, fmt.Errorf("replacing the damaged journal %s (%w): %w", path, err, moveErr)
		}
		o.Logger.Error().Err(err).Str("path", path).Str("moved_to", aside).
			Msg("the journal was damaged: starting with an empty one, leftovers are found by name")
		db, err = openSound(path, o)
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("the journal %s is in use by another process: stop the other executor first (after %s)", path, o.LockTimeout)
	case err != nil:
		return nil, fmt.Errorf("opening the journal %s: %w", path, err)
	}
	return &Journal{db: db, boot: o.BootID}, nil
}

// Close lets go of the file. Every later call fails.
func (j *Journal) Close() error { return j.db.Close() }

// Begin implements jobs.Journal. An id that is recorded already is an error.
func (j *Journal) Begin(ctx context.Context, rec jobs.Record) error {
	if err := check(ctx, rec); err != nil {
		return err
	}
	return j.db.Update(func(tx *bolt.Tx) error {
		sandboxes := tx.Bucket([]byte(sandboxesBucket))
		if sandboxes.Get([]byte(rec.ID)) != nil {
			return fmt.Errorf("sandbox %s is in the journal already", rec.ID)
		}
		sequence, err := sandboxes.NextSequence()
		if err != nil {
			return err
		}
		if err := rememberTempDir(tx, rec); err != nil {
			return err
		}
		return put(sandboxes, entry{Sequence: sequence, Boot: j.boot, Record: rec})
	})
}

// Intend implements jobs.Journal. An effect that is recorded already stays recorded once; an unknown id is an
// error.
func (j *Journal) Intend(ctx context.Context, id string, effect jobs.Effect) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return j.db.Update(func(tx *bolt.Tx) error {
		sandboxes := tx.Bucket([]byte(sandboxesBucket))
		value := sandboxes.Get([]byte(id))
		if value == nil {
			return unknown(id)
		}
		e, err := decode([]byte(id), value)
		if err != nil {
			return err
		}
		if slices.Contains(e.Record.Effects, effect) {
			return nil
		}
		e.Record.Effects = append(e.Record.Effects, effect)
		return put(sandboxes, e)
	})
}

// End implements jobs.Journal.
func (j *Journal) End(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return j.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(sandboxesBucket)).Delete([]byte(id))
	})
}

// Records implements jobs.Journal; "oldest" is the order of Begin.
func (j *Journal) Records(ctx context.Context) ([]jobs.Record, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var entries []entry
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(sandboxesBucket)).ForEach(func(id, value []byte) error {
			e, err := decode(id, value)
			entries = append(entries, e)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return inOrder(entries, j.boot), nil
}

// TempDirs returns the directories in which runners made their temporary ones, also those of jobs that ended.
func (j *Journal) TempDirs(ctx context.Context) ([]jobs.RunnerTempDir, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var dirs []jobs.RunnerTempDir
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(tempDirsBucket)).ForEach(func(key, _ []byte) error {
			if len(key) < 4 {
				return fmt.Errorf("journal: a key of %s is too short", tempDirsBucket)
			}
			dirs = append(dirs, jobs.RunnerTempDir{UID: binary.BigEndian.Uint32(key), Path: string(key[4:])})
			return nil
		})
	})
	return dirs, err
}

func rememberTempDir(tx *bolt.Tx, rec jobs.Record) error {
	if rec.RunnerDir == "" {
		return nil
	}
	key := binary.BigEndian.AppendUint32(nil, rec.RunnerUID)
	key = append(key, filepath.Dir(rec.RunnerDir)...)
	bucket := tx.Bucket([]byte(tempDirsBucket))
	if bucket.Get(key) != nil {
		return nil
	}
	return bucket.Put(key, []byte{})
}

func put(sandboxes *bolt.Bucket, e entry) error {
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal: encoding sandbox %s: %w", e.Record.ID, err)
	}
	return sandboxes.Put([]byte(e.Record.ID), value)
}

func decode(id, value []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return entry{}, fmt.Errorf("journal: the entry of sandbox %q is unreadable: %w", id, err)
	}
	return e, nil
}

// inOrder turns entries into records, oldest first, and marks those of another boot.
func inOrder(entries []entry, boot string) []jobs.Record {
	slices.SortFunc(entries, func(a, b entry) int {
		if a.Sequence < b.Sequence {
			return -1
		}
		return 1
	})
	records := make([]jobs.Record, 0, len(entries))
	for _, e := range entries {
		e.Record.Effects = slices.Clone(e.Record.Effects)
		e.Record.EarlierBoot = e.Boot != "" && boot != "" && e.Boot != boot
		records = append(records, e.Record)
	}
	return records
}
