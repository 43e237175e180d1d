package microvm

import (
	"os"
	"path/filepath"
	"time"
)

// keptFor is how long a kernel, an initramfs or a template that no sandbox uses any more is kept on disk: another
// configuration, or an older release, may come back. What replaces one removes those that are older.
const keptFor = 14 * 24 * time.Hour

// touch marks files as in use.
func touch(paths ...string) {
	now := time.Now()
	for _, path := range paths {
		_ = os.Chtimes(path, now, now) // at worst it is made once more
	}
}

// removeUnused removes what matches a pattern and was not used for long.
func removeUnused(pattern string) error {
	all, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range all {
		info, err := os.Lstat(path)
		if err != nil || time.Since(info.ModTime()) < keptFor {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
