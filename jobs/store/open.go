package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// format is the version of the file's layout that this code writes. A change of the layout gets the next
// number, a case in upgrade, and a file of the old layout in testdata.
const format = 1

// damageError says that a file's content is not a journal (any more).
type damageError struct{ err error }

func (e *damageError) Error() string { return "the file is damaged: " + e.err.Error() }
func (e *damageError) Unwrap() error { return e.err }

// openSound opens the file, upgrades it and reads all of it once, so that damage shows now and not in the
// middle of a job. Damage is returned as *damageError.
func openSound(path string, o Options) (db *bolt.DB, err error) {
	// bbolt panics on some damage, and a file cut short faults where it is mapped.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damageError{fmt.Errorf("%v", r)}
		}
		if err != nil && db != nil {
			_ = db.Close()
			db = nil
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout: o.LockTimeout,
		NoSync:  true, NoGrowSync: true, // see Durability in doc.go
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: 1 << 20,
		NoStatistics:    true,
	})
	if err != nil {
		if isSystemError(err) {
			return nil, err
		}
		return nil, &damageError{err}
	}
	if err := db.Update(upgrade); err != nil {
		return db, err
	}
	err = db.View(verify)
	return db, err
}

// upgrade brings a file of any released format, or an empty one, to the current format.
func upgrade(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
	if err != nil {
		return err
	}
	found := meta.Get([]byte("format"))
	if found == nil {
		if err := meta.Put([]byte("format"), []byte(strconv.Itoa(format))); err != nil {
			return err
		}
		return createBuckets(tx)
	}
	version, err := strconv.Atoi(string(found))
	switch {
	case err != nil || version < 1:
		return &damageError{fmt.Errorf("format %q", found)}
	case version > format:
		return fmt.Errorf("it was written by a newer Airlock (format %d, this one knows %d): "+
			"start that version again, or remove the file when no job runs", version, format)
	}
	return nil
}

func createBuckets(tx *bolt.Tx) error {
	for _, name := range []string{sandboxesBucket, tempDirsBucket} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// verify reads every entry and lets bbolt check its own pages.
func verify(tx *bolt.Tx) error {
	for _, name := range []string{sandboxesBucket, tempDirsBucket} {
		bucket := tx.Bucket([]byte(name))
		if bucket == nil {
			return &damageError{fmt.Errorf("it has no bucket %q", name)}
		}
		err := bucket.ForEach(func(key, value []byte) error {
			if name != sandboxesBucket {
				return nil
			}
			_, err := decode(key, value)
			return err
		})
		if err != nil {
			return &damageError{err}
		}
	}
	var damage []error
	for err := range tx.Check() {
		damage = append(damage, err)
	}
	if len(damage) > 0 {
		return &damageError{errors.Join(damage[:min(len(damage), 5)]...)}
	}
	return nil
}

// moveAside renames a damaged file and returns its new name.
func moveAside(path string, now time.Time) (string, error) {
	aside := path + ".corrupt-" + now.UTC().Format("20060102T150405.000Z")
	return aside, os.Rename(path, aside)
}

// isSystemError reports whether an error is the operating system's, and no damage of the file's content.
func isSystemError(err error) bool {
	var pathError *fs.PathError
	var errno syscall.Errno
	return errors.As(err, &pathError) || errors.As(err, &errno) || errors.Is(err, berrors.ErrTimeout)
}
