package leakcheck

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// files walks the directories; links are not followed.
func files(o Options) (things, error) {
	runnerDirs, err := filepath.Glob(filepath.Join(os.TempDir(), "custom-executor*"))
	if err != nil {
		return nil, err
	}
	found := things{}
	seen := map[string]bool{}
	for _, dir := range append(runnerDirs, o.Dirs...) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // missing, or removed meanwhile
			case err != nil:
				return err
			case !seen[path]:
				seen[path] = true
				found.addOwn(path, d.Type().String(), true)
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// loops looks at the loop devices that have a file attached.
func loops(Options) (things, error) {
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := things{}
	for _, path := range backing {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // detached meanwhile
		}
		if err != nil {
			return found, err
		}
		device := filepath.Base(filepath.Dir(filepath.Dir(path)))
		found.add("/dev/"+device+" on "+strings.TrimSpace(string(content)), "")
	}
	return found, nil
}
