// Package trash owns the directory of what is being deleted.
//
// A thing vanishes at once, by a rename, and is deleted in the background, by what the cache deletes layers with. Nobody
// has to wait for a large tree, and one that a process did not finish to delete goes at the next start. It never deletes
// what was not moved to it, and follows no link. Layers, scratches and the facade throw away; space waits for it.
package trash

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

// Trash is a directory of what is being deleted.
type Trash struct {
	dir        string
	remove     func(path string) error
	background *sync.WaitGroup
	log        zerolog.Logger

	mu      sync.Mutex
	running int           // deletions under way
	idle    chan struct{} // closed when running becomes 0
}

// New returns the trash in dir, which is there. What is thrown into it is deleted by remove, in the background.
func New(dir string, remove func(path string) error, background *sync.WaitGroup, log zerolog.Logger) *Trash {
	return &Trash{dir: dir, remove: remove, background: background, log: log}
}

// Discard makes a path vanish at once and deletes it in the background. It succeeds when there is none.
func (t *Trash) Discard(path string) {
	gone, err := t.Move(path)
	if err != nil {
		t.log.Error().Err(err).Str("path", path).Msg("cannot discard")
	}
	if gone == "" {
		return
	}
	t.DeleteLater(gone)
}

// DiscardContent empties a directory of half-made things.
func (t *Trash) DiscardContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cleaning up after an earlier process: %w", err)
	}
	for _, e := range entries {
		t.Discard(filepath.Join(dir, e.Name()))
	}
	return nil
}

// Move moves a path into the trash and returns where it went; empty when there was nothing. The caller deletes it, with
// DeleteLater.
func (t *Trash) Move(path string) (string, error) {
	target, err := os.MkdirTemp(t.dir, "")
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

// Empty deletes, in the background, what earlier processes did not finish to delete.
func (t *Trash) Empty() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return fmt.Errorf("reading the trash: %w", err)
	}
	left := make([]string, len(entries))
	for i, e := range entries {
		left[i] = filepath.Join(t.dir, e.Name())
	}
	t.DeleteLater(left...)
	return nil
}

// Wait waits until nothing is being deleted, and reports whether there was anything to wait for.
func (t *Trash) Wait(ctx context.Context) (waited bool, err error) {
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

// DeleteLater deletes what Move returned, in the background; a caller that needs its room can Wait for it.
func (t *Trash) DeleteLater(paths ...string) {
	t.begin()
	t.background.Go(func() {
		defer t.end()
		for _, path := range paths {
			if err := t.remove(path); err != nil {
				t.log.Error().Err(err).Str("path", path).Msg("cannot delete; the next start tries again")
			}
		}
	})
}

func (t *Trash) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running++; t.running == 1 {
		t.idle = make(chan struct{})
	}
}

func (t *Trash) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 {
		close(t.idle)
	}
}
