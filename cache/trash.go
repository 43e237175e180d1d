package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
)

// discard makes a path vanish at once and deletes it in the background.
func (c *Cache) discard(path string) {
	gone, err := c.moveToTrash(path)
	if err != nil {
		c.log.Error().Err(err).Str("path", path).Msg("cannot discard")
	}
	if gone == "" {
		return
	}
	c.background.Go(func() { deleteTree(gone, c.log) })
}

// moveToTrash returns where path went; empty when there was nothing.
func (c *Cache) moveToTrash(path string) (string, error) {
	target, err := os.MkdirTemp(filepath.Join(c.opts.Dir, "trash"), "")
	if err != nil {
		return "", fmt.Errorf("discarding %s: %w", path, err)
	}
	err = os.Rename(path, filepath.Join(target, "it"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", os.Remove(target)
	}
	if err != nil {
		return target, fmt.Errorf("discarding %s: %w", path, err)
	}
	return target, nil
}

// emptyTrash deletes, in the background, what earlier processes did not finish to delete.
func (c *Cache) emptyTrash() error {
	trash := filepath.Join(c.opts.Dir, "trash")
	entries, err := os.ReadDir(trash)
	if err != nil {
		return fmt.Errorf("reading the trash: %w", err)
	}
	c.background.Go(func() {
		for _, e := range entries {
			deleteTree(filepath.Join(trash, e.Name()), c.log)
		}
	})
	return nil
}

// discardContent empties one of the directories of half-made things.
func (c *Cache) discardContent(name string) error {
	dir := filepath.Join(c.opts.Dir, name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cleaning up after an earlier process: %w", err)
	}
	for _, e := range entries {
		c.discard(filepath.Join(dir, e.Name()))
	}
	return nil
}

func deleteTree(path string, log zerolog.Logger) {
	if err := deleteAll(path); err != nil {
		log.Error().Err(err).Str("path", path).Msg("cannot delete; the next start tries again")
	}
}
