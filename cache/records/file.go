package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/airlock-ci/airlock/cache/space"
)

// WrittenUse is what a record will take.
func WrittenUse(record any) space.Use {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil { // writing it says so
		return space.Use{Inodes: 1}
	}
	return space.Use{Bytes: space.Blocks(int64(len(data))), Inodes: 1}
}

// writeRecord writes a record so that a reader, or a later start, sees all of it or nothing, and returns its size.
func writeRecord(path string, record any) (size int64, err error) {
	data, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return int64(len(data)), nil
}

func readRecord(path string, record any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a record: %w", err)
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// eachFile visits the files of a directory.
func eachFile(dir string, visit func(path string, info fs.FileInfo) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading the cache: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil {
			err = visit(filepath.Join(dir, e.Name()), info)
		}
		if err != nil {
			return fmt.Errorf("reading the cache: %w", err)
		}
	}
	return nil
}
