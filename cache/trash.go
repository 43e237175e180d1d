package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

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
	c.deleteLater(gone)
}

// deleteLater deletes what is in the trash in the background; who needs its room can wait for it.
func (c *Cache) deleteLater(gone string) {
	c.trash.begin()
	c.background.Go(func() {
		defer c.trash.end()
		deleteTree(gone, c.log)
	})
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
	c.trash.begin()
	c.background.Go(func() {
		defer c.trash.end()
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

// trash knows how many deletions are under way.
type trash struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when running becomes 0
}

func (t *trash) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running++; t.running == 1 {
		t.idle = make(chan struct{})
	}
}

func (t *trash) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 {
		close(t.idle)
	}
}

// wait waits until nothing is being deleted, and reports whether there was anything to wait for.
func (t *trash) wait(ctx context.Context) (waited bool, err error) {
	t.mu.Lock()
	running, idle := t.running, t.idle
	t.mu.Unlock()
	if running == 0 {
		return false, nil
	}
	select {
	case <-idle:
		return true, nil
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

func deleteTree(path string, log zerolog.Logger) {
	if err := deleteAll(path); err != nil {
		log.Error().Err(err).Str("path", path).Msg("cannot delete; the next start tries again")
	}
}
