package store

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/airlock-ci/airlock/jobs"
)

// Memory is a journal that dies with its process.
type Memory struct {
	mu       sync.Mutex
	sequence uint64
	entries  map[string]entry
	tempDirs []jobs.RunnerTempDir
}

// NewMemory returns an empty journal.
func NewMemory() *Memory { return &Memory{entries: map[string]entry{}} }

// Begin is Journal.Begin.
func (m *Memory) Begin(ctx context.Context, rec jobs.Record) error {
	if err := check(ctx, rec); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.entries[rec.ID]; ok {
		return fmt.Errorf("sandbox %s is in the journal already", rec.ID)
	}
	m.sequence++
	rec.Effects = slices.Clone(rec.Effects)
	m.entries[rec.ID] = entry{Sequence: m.sequence, Record: rec}
	if rec.RunnerDir != "" {
		dir := jobs.RunnerTempDir{Path: filepath.Dir(rec.RunnerDir), UID: rec.RunnerUID}
		if !slices.Contains(m.tempDirs, dir) {
			m.tempDirs = append(m.tempDirs, dir)
		}
	}
	return nil
}

// Intend is Journal.Intend.
func (m *Memory) Intend(ctx context.Context, id string, effect jobs.Effect) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[id]
	if !ok {
		return unknown(id)
	}
	if !slices.Contains(e.Record.Effects, effect) {
		e.Record.Effects = append(e.Record.Effects, effect)
		m.entries[id] = e
	}
	return nil
}

// End is Journal.End.
func (m *Memory) End(ctx context.Context, id string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, id)
	return nil
}

// Records is Journal.Records.
func (m *Memory) Records(ctx context.Context) ([]jobs.Record, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := make([]entry, 0, len(m.entries))
	for _, e := range m.entries {
		entries = append(entries, e)
	}
	return inOrder(entries, ""), nil
}

// TempDirs is Journal.TempDirs.
func (m *Memory) TempDirs(ctx context.Context) ([]jobs.RunnerTempDir, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.tempDirs), nil
}
