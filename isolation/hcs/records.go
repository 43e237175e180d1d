package hcs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/airlock-ci/airlock/isolation"
)

// record is what a sandbox leaves on disk before it does anything else, so that it can be taken back by its id alone.
type record struct {
	Level isolation.Level `json:"level"`
	// ScratchDir is the caller's; the scratch layers and the scripts are below it.
	ScratchDir string `json:"scratch_dir"`
}

func (h *Host) recordDir() string             { return filepath.Join(h.opts.Dir, "sandboxes") }
func (h *Host) trashDir() string              { return filepath.Join(h.opts.Dir, "removing") }
func (h *Host) recordPath(id string) string   { return filepath.Join(h.recordDir(), id+".json") }
func scriptsOf(scratchDir string) string      { return filepath.Join(scratchDir, "scripts") }
func layerName(id string, attempt int) string { return id + "." + strconv.Itoa(attempt) }

// idOf returns the sandbox that a system or a scratch layer belongs to; empty for what is not named by layerName.
func idOf(name string) string {
	id, attempt, ok := strings.Cut(name, ".")
	if _, err := strconv.Atoi(attempt); !ok || err != nil || !isolation.ValidID(id) {
		return ""
	}
	return id
}

// claim writes the record of a new sandbox. It fails when there is one of that id.
func (h *Host) claim(id string, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(h.recordPath(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("there is a sandbox of that id already: %w", err)
	}
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}

// recall reads a record; ok is false when there is none. One that is broken belongs to a sandbox that had made
// nothing yet: a record is complete before anything follows it.
func (h *Host) recall(id string) (r record, ok bool, err error) {
	text, err := os.ReadFile(h.recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	if json.Unmarshal(text, &r) != nil || !filepath.IsAbs(r.ScratchDir) {
		return record{}, true, nil
	}
	return r, true, nil
}

// records returns all sandboxes that have one, with their levels: 0 for one that cannot be read.
func (h *Host) records() (map[string]isolation.Level, error) {
	entries, err := os.ReadDir(h.recordDir())
	if err != nil {
		return nil, err
	}
	all := map[string]isolation.Level{}
	for _, entry := range entries {
		if id, isRecord := strings.CutSuffix(entry.Name(), ".json"); isRecord && isolation.ValidID(id) {
			r, _, _ := h.recall(id) // its removal reports what is wrong
			all[id] = r.Level
		}
	}
	return all, nil
}

func (h *Host) forget(id string) error {
	if err := os.Remove(h.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// layersOf returns the scratch layers that a sandbox has: the directories that are named after it.
func layersOf(r record, id string) ([]string, error) {
	if r.ScratchDir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.ScratchDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dirs []string
	for _, entry := range entries {
		if idOf(entry.Name()) == id {
			dirs = append(dirs, filepath.Join(r.ScratchDir, entry.Name()))
		}
	}
	return dirs, err
}
