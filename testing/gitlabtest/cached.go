package gitlabtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CacheVariable names the environment variable that says where built things are kept.
const CacheVariable = "AIRLOCK_CACHE"

// Cached returns the path of a file that takes long to make. It is made once per machine, by build, which
// writes it to the path it is given; name must change with whatever goes into the file. Files are kept below
// $AIRLOCK_CACHE, by default ~/.cache/airlock. Several processes may ask at once.
func Cached(ctx context.Context, name string, build func(ctx context.Context, path string) error) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("waiting for another process that makes %s: %w", path, err)
	}
	defer unlock()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err // the other process made it
	}
	partial := path + ".partial"
	defer func() { _ = os.Remove(partial) }()
	if err := build(ctx, partial); err != nil {
		return "", fmt.Errorf("making %s: %w", path, err)
	}
	return path, os.Rename(partial, path)
}

func cacheDir() (string, error) {
	dir := os.Getenv(CacheVariable)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w; set %s", err, CacheVariable)
		}
		dir = filepath.Join(user, "airlock")
	}
	return dir, os.MkdirAll(dir, 0o755)
}
